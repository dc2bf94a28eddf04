"""The secrets of a run: where they are found, and that nothing of a result contains them."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from opencode_tasks.domain.records import InnerRetry, Session
from opencode_tasks.opencode.backend import OpencodeSpec, Secrets
from opencode_tasks.opencode.secret_values import SpecSecrets
from opencode_tasks.outcomes.backend_result import SessionResult, Stopped
from opencode_tasks.outcomes.secret_mask import SecretMask

KEY = 'sk-"live"/0123456789'


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_every_text_of_a_result_is_masked() -> None:
    retry = InnerRetry(session_id="ses_1", number=1, message=KEY, next_at=None)
    body = json.dumps({"error": {"message": f"wrong key {KEY}"}})
    error = {"data": {"message": KEY, "responseBody": body, KEY: 1}}
    headers = {"x-upstream-body": encoded(body), "x-upstream-status": "401", "x-id": KEY}
    message = {"info": {"error": {**error, "responseHeaders": headers}}, "parts": [{"text": f"is {KEY}?"}]}
    masked = SecretMask([KEY, "short"]).result(
        SessionResult(
            session_id="ses_1",
            sessions=[Session(session_id="ses_1", parent_id=None, messages=[message])],
            error=error,
            fault=KEY,
            stopped=Stopped(wait=retry),
            inner_retries=[retry],
            stream_text=KEY,
            stderr=f"GET /?key=sk-%22live%22%2F0123456789 with {KEY}",
            events=[{"part": {"text": KEY}}],
            notes=(KEY, "short"),
        )
    )
    assert "0123456789" not in repr(masked)
    info: Any = masked.sessions[0].messages[0]["info"]
    found = info["error"]["responseHeaders"]
    assert base64.b64decode(found["x-upstream-body"]).decode() == body.replace(
        json.dumps(KEY)[1:-1], "[secret]"
    )
    assert (found["x-upstream-status"], masked.notes) == ("401", ("[secret]", "short"))
    assert masked.sessions[0].messages[0]["parts"] == [{"text": "is [secret]?"}]


def escaped(form: str) -> str:
    """The key with each character that is no letter or digit in another form."""
    return "".join(char if char.isalnum() else form.format(ord(char)) for char in KEY)


@pytest.mark.parametrize(
    "text",
    [
        KEY.replace("/", r"\/"),
        escaped(r"\u{:04x}"),
        escaped(r"\u{:04X}"),
        json.dumps(json.dumps(escaped(r"\u{:04x}"))),
        html.escape(KEY),
        html.escape(html.escape(KEY)),
        escaped("&#{};"),
        escaped("&#x{:02X};"),
        KEY.replace("/", "&sol;").replace("-", "&#045;"),
        quote(KEY),
        quote(KEY, safe="").lower(),
        quote(quote(KEY, safe=""), safe=""),
    ],
    ids=range(12),
)
def test_a_secret_is_replaced_however_it_is_escaped(text: str) -> None:
    masked = SecretMask([KEY]).text(f"wrong key {text}, try again")
    assert "live" not in masked
    assert masked.strip('"\\').startswith("wrong key ")
    assert masked.endswith(", try again")


def test_the_longest_secret_is_replaced_first() -> None:
    assert SecretMask(["12345678", "12345678-tail"]).text("12345678-tail 12345678") == "[secret] [secret]"


def test_without_secrets_nothing_changes() -> None:
    result = SessionResult(session_id="ses_1", stderr="text")
    assert SecretMask([]).result(result) is result


@pytest.mark.parametrize(
    ("changes", "secret"),
    [
        ({"secrets": Secrets(api_keys={"p": "of-a-block-1"})}, "of-a-block-1"),
        ({"secrets": Secrets(environment={"CUSTOM": "of-a-block-2"})}, "of-a-block-2"),
        ({"config": {"provider": {"p": {"options": {"apiKey": "of-a-config"}}}}}, "of-a-config"),
        ({"config": {"provider": {"p": {"options": {"apiKey": "{env:SOME_NAME}"}}}}}, "of-a-variable"),
        ({"config": {"provider": {"p": {"options": {"apiKey": "{file:key.txt}"}}}}}, "of-a-file"),
        ({"config": {"mcp": {"m": {"headers": {"Authorization": "Bearer of-a-header"}}}}}, "of-a-header"),
        ({"config": {"mcp": {"m": {"url": "https://u:of-a-password@h/"}}}}, "of-a-password"),
        ({"config": {"mcp": {"m": {"url": "https://h/?api_key=of-a-query"}}}}, "of-a-query"),
        ({}, "of-the-environment"),
        ({}, "of-the-global-config"),
        ({}, "of-a-login"),
    ],
)
def test_where_secrets_are_found(
    changes: dict[str, Any], secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SOME_NAME", "of-a-variable")
    monkeypatch.setenv("HOUSE_API_KEY", "of-the-environment")
    (tmp_path / "key.txt").write_text("of-a-file\n")
    for folder in ("data", "config"):
        (tmp_path / folder / "opencode").mkdir(parents=True)
    (tmp_path / "config" / "opencode" / "opencode.jsonc").write_text(
        '{"provider": {"p": {"options": {"apiKey": "of-the-global-config",}}}} // mine'
    )
    (tmp_path / "data" / "opencode" / "auth.json").write_text('{"p": {"type": "api", "key": "of-a-login"}}')
    mask = SpecSecrets(OpencodeSpec(binary=Path("/bin/opencode"), **changes)).mask
    assert mask.text(f"it is {secret}.") == "it is [secret]."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_REGION", "us-east-1"),
        ("MAX_TOKEN_KEY", "100000000"),
        ("TLS_KEY", "/etc/hostname"),
        ("A_KEY", "short"),
    ],
)
def test_values_that_are_no_secrets_stay(name: str, value: str) -> None:
    secrets = Secrets(environment={name: value})
    mask = SpecSecrets(OpencodeSpec(binary=Path("/bin/opencode"), secrets=secrets)).mask
    assert mask.text(f"it is {value}.") == f"it is {value}."


def test_a_rotated_token_is_known_with_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    store = tmp_path / "opencode" / "auth.json"
    store.parent.mkdir()
    secrets = SpecSecrets(OpencodeSpec(binary=Path("/bin/opencode")))
    assert secrets.mask.text("token-number-1") == "token-number-1"
    for token in ("token-number-1", "token-number-2"):
        new = store.with_suffix(".new")
        new.write_text(json.dumps({"p": {"type": "oauth", "access": token}}))
        new.replace(store)
        assert secrets.mask.text(token) == "[secret]"
    assert secrets.mask.text("token-number-1") == "[secret]"
