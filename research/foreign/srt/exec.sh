# srt makes one line for bash of its arguments, so each of them is quoted for that.
exec node_modules/.bin/srt -s <(printf %s "$BOTTLE_HANDLE") -c "$(printf '%q ' "$@")"
