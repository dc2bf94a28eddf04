"""Texts that break programs: control characters, other scripts, injections, formulas, braces, long words."""

# ruff: noqa: RUF001  ambiguous characters are wanted here

from __future__ import annotations

NAUGHTY: dict[str, str] = {
    "controls": "".join(map(chr, [*range(1, 32), *range(127, 160)])) + "x",
    "line ends": "a\rb\nc\r\nd\x0be\x0cf\x85g\u2028h\u2029i",
    "spaces": " \u00a0\u1680\u2003\u202f\u3000x\t ",
    "zero width": "a\u200bb\u200cc\u200dd\ufeffe\u2060f\u00adg",
    "right to left": "\u202eabc\u202c \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u2067x\u2069",
    "emoji": "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 👍🏿 🇫🇷 1\ufe0f\u20e3 \U0001f9ff",
    "combining": "Z͑ͫ̓a̴l̷g̸o e\u0301 \u1112\u1161\u11ab",
    "other planes": "𝒳 𠜎 \U0010ffff \ufffd \ufffe \uffff",
    "other scripts": "日本語 한국어 ไทย हिन्दी ქართული አማርኛ ﷽",
    "cases": "İ ı ß ẞ ﬁ ǅ",
    "quotes": "'\"`´‘’“”«»„ '' \"\" \\' \\\" \\\\",
    "formula": "=1+1|'/C calc'!A0",
    "formulas": "+1\n-1\n@SUM(A1)\n\t=1\n'=1",
    "braces": "{x} {{x}} {0} {} }{ {{{}}} ${x} #{x} %(x)s %s %n {x!r:>10}",
    "config references": "{file:/etc/hostname} {file:missing} {env:HOME} {file:~/.ssh/id}",
    "commands": "/help @file.txt !ls $(id) `id` ; rm -rf x && y | z > w < v & # ~",
    "sql": "'; DROP TABLE rows; -- ' OR 1=1 /* */ \\x00 %_",
    "html": "<script>alert(1)</script> &lt;&amp;&#0; <!-- ]]> <img src=x onerror=y>",
    "json": '{"label": "x", "a": [1, null, NaN]} [1] "\\u0000" \\ud800',
    "yaml": "--- !!python/object:x &a *a null ~ yes: no",
    "thinking": "&lt;think&gt; </thinking> [INST] <|im_end|> <<SYS>>",
    "numbers": "007 1e5 NaN Infinity -0 0x1F 1_000 9007199254740993 ١٢٣",
    "words": "null None NULL undefined nan true FALSE N/A NA #N/A",
    "paths": "../../etc/passwd C:\\con\\nul \\\\host\\share file:///etc/x",
    "url": "javascript:alert(1) http://user:pass@[::1]:0/?a=b&c#d",
    "separators": "a,b;c\td|e\x1ff\x1eg",
    "long word": "x" * 20_000,
    "long emoji": "👍🏿" * 5_000,
    "interpolation": "{{prompt}} {prompt} {text} {{ 7*7 }} {% x %} <%= x %> [[x]]",
    "ansi": "\x1b[31mred\x1b[0m \x1b]0;title\x07",
}
