"""Spellings of one host dressed as another: what was approved here and dialled there, elsewhere.

``{a}`` is the allowed name and ``{d}`` the denied one, whose first label is the conversation's
nonce. Sources: the SOCKS5 NUL bypass (oddguan.com, see NVIDIA/OpenShell issue 1498), OpenShell pull
2248, RFC 3986 section 3.2 (user information, percent-encoding), RFC 3490 section 3.1 (dots), RFC
1928 (a name of SOCKS5 is bytes with a length).
"""

from __future__ import annotations

_USER = (
    "{a}@{d}",
    "{a}:80@{d}",
    "{a}:@{d}",
    "user:{a}@{d}",
    "{d}@{a}",
    "{a}%40{d}",
    "{a}%00@{d}",
    "{a}\\@{d}",
    "{a}%5C@{d}",
    "{a}:80\\@{d}",
    "{a}%20@{d}",
    "{a}@{d}@{a}",
)
_ENDS = (
    "{d}\0.{a}",
    "{d}\0{a}",
    "{d}\0",
    "{a}\0.{d}",
    "{d}%00.{a}",
    "{d}%00{a}",
    "{d}%2500.{a}",
    "{d}\x01.{a}",
    "{d}\x7f.{a}",
    "{d}\x0b.{a}",
    "{d}%0a.{a}",
    "{d}%0d%0a.{a}",
    "{d}\n.{a}",
    "{d}\t.{a}",
    "{d}%09.{a}",
    "{d} .{a}",
    "{d}%20.{a}",
    "{a} {d}",
    "{a}\t{d}",
    " {d}",
    "{d} ",
)
_DELIMITERS = (
    "{d}#.{a}",
    "{d}#@{a}",
    "{d}%23.{a}",
    "{d}%2523.{a}",
    "{d}?.{a}",
    "{d}?@{a}",
    "{d}%3F.{a}",
    "{d}/.{a}",
    "{d}/@{a}",
    "{d}%2F.{a}",
    "{d}\\.{a}",
    "{d}\\{a}",
    "{a}\\.{d}",
    "{d}%5C.{a}",
    "{d};.{a}",
    "{d}&.{a}",
    "{d},{a}",
    "{a},{d}",
    "{a}|{d}",
    "[{d}]",
    "[{a}]{d}",
    "{d}:80:443",
    "{d}:{a}",
    "{a}:80:{d}",
    "{a}:80,{d}",
)
_LETTERS = (
    "{D}",
    "{d}.",
    "{d}..",
    ".{d}",
    "{d}.{a}.",
    "{a}.{d}",
    "{d%2e}",
    "{nonce}.%66orbidden.test",
    "{d\u3002}",
    "{d\uff0e}",
    "{d\uff61}",
    "{d}\uff0e{a}",
    "{a}\uff0e{d}",
    "{a}\u3002\u200b{d}",
    "{d}\u2044.{a}",
    "{d\xc0\xae}",
    "{wide}",
    "\u200b{d}",
    "{d}\xad",
    "xn--{d}",
    "{nonce}.xn--forbidden-.test",
    "{d}.{filler}.{a}",
    "{filler}.{d}",
    "{d}{zeros}",
)
#: Some eighty of them.
SPELLINGS: tuple[str, ...] = (*_USER, *_ENDS, *_DELIMITERS, *_LETTERS)

#: Other spellings of the allowed name itself: they may work or not, but everywhere alike.
EQUIVALENTS = ("allowed.test", "ALLOWED.TEST", "aLLoWeD.tEsT", "allowed.test.", "ALLOWED.TEST.")

_FILLER = ".".join(["x" * 60] * 4)
#: What some resolver or client takes for a dot.
_DOTS = ("%2e", "\u3002", "\uff0e", "\uff61")
_BASE = {"{filler}": _FILLER, "{zeros}": "." * 250}


def spelled(spelling: str, allowed: str, nonce: str, owner: str) -> bytes:
    """Write a spelling out, with ``owner`` as the registrable name of the denied host.

    ``{D}`` is in upper case, ``{d…}`` has the given dots and ``{wide}`` is in full width.
    """
    denied = f"{nonce}.{owner}"
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in owner)
    words = {
        **_BASE,
        "{a}": allowed,
        "{d}": denied,
        "{D}": denied.upper(),
        "{nonce}": nonce,
        "{wide}": f"{nonce}.{wide}",
        **{
            f"{{d{dot}}}": denied.replace(".", dot) for dot in ("%2e", "\u3002", "\uff0e", "\uff61")
        },
    }
    for word, text in words.items():
        spelling = spelling.replace(word, text)
    # An overlong dot is no character: it has to come as bytes (RFC 3629 section 10).
    overlong = denied.encode().replace(b".", b"\xc0\xae")
    return spelling.encode().replace("{d\xc0\xae}".encode(), overlong)
