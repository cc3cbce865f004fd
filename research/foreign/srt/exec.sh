# srt makes one line for bash of its arguments, so each of them is quoted for that.
exec node_modules/.bin/srt -s settings.json -c "$(printf '%q ' "$@")"
