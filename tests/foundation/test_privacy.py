"""Privacy rules remove personal data and nothing else; errors in the file name its line."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apm_analytics.foundation import privacy
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.linear import MASK, MAX_MATCHES
from apm_analytics.foundation.privacy import LONGEST_TEXT, PrivacyRules, load_rules

RULES = load_rules(Path(__file__).resolve().parents[2] / "specs" / "privacy.yaml", salt="pepper")
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
PRIVATE_KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7\nabc+/=\n-----END RSA PRIVATE KEY-----"
)


@pytest.mark.parametrize(
    "key",
    [
        "http.request.header.authorization",
        "http.request.header.set_cookie",
        "Set-Cookie",
        "user.password",
        "db.passwordHash",
        "x-api-key",
        "apiKey",
        "request.headers.X-Auth-Token",
        "client_secret",
        "aws_secret_access_key",
    ],
)
def test_credentials_are_dropped_by_key(key: str) -> None:
    assert RULES.attribute(key, "anything") is None
    rule = RULES.key_rule(key)
    assert rule is not None and rule.action == "drop"


@pytest.mark.parametrize(
    "key",
    ["http.route", "gen_ai.token.type", "gen_ai.usage.input_tokens", "user.id", "session.id"],
)
def test_ordinary_keys_stay(key: str) -> None:
    assert RULES.attribute(key, "input") == "input"


def test_hashes_by_key_are_the_same_for_the_same_value_and_salt() -> None:
    hashed = RULES.attribute("customer_email", "anna")
    assert hashed and hashed.startswith("hash:") and len(hashed) == 21
    assert RULES.attribute("customer.email", "anna") == hashed
    assert RULES.attribute("customer.email", "otto") != hashed
    assert RULES.attribute("customer.email", hashed) == hashed


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("paid by anna.smith+shop@example.co.uk today", "anna.smith"),
        ("GET /users/anna%40example.com", "anna"),
        ("paid with 4111 1111 1111 1111.", "1111"),
        ("paid with 5555-5555-5555-4444", "5555"),
        ("card=378282246310005", "378282246310005"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
        ("got header 'authorization': 'Token abc def'", "abc def"),
        ("[(b'cookie', b'sid=4711; theme=dark')]", "4711"),
        ("curl -H 'Cookie: sid=4711; other=4712'", "4712"),
        ("sent Bearer abcdef0123456789", "abcdef0123456789"),
        (f"token was {JWT} then", "dozjgNryP4J3"),
        (f"key:\n{PRIVATE_KEY}\nend", "MIIEow"),
        ("cut short -----BEGIN PRIVATE KEY-----\nMIIEow", "MIIEow"),
        ("postgresql://app:hunter2@db.example.com:5432/shop", "hunter2"),
        ("postgresql://app:hun@ter2@db:5432/shop", "ter2"),
        ("redis://:hunter2@cache:6379", "hunter2"),
        ("/login?user=anna&password=hunter2&next=%2F", "hunter2"),
        ('{"user": "anna", "client_secret": "hunter 2", "n": 1}', "hunter 2"),
        ('{"body": "{\\"password\\": \\"hunter2\\"}"}', "hunter2"),
        ("{'api_key': 'hunter2'}", "hunter2"),
        ("apiKey: hunter2", "hunter2"),
        ("Server=db;Password=hunter2,;x;Timeout=5", "hunter2,"),
        ("dbPassword%3Dhunter2", "hunter2"),
        ('password="he said \\"hunter2\\" twice"', "hunter2"),
        ("using ghp_0123456789abcdefghij0123456789abcdef", "ghp_0123456789"),
        ("key AKIAIOSFODNN7EXAMPLE used", "AKIAIOSFODNN7"),
        ("?X-Amz-Signature=fe5f80f77d5fa3beca038a248ff027", "fe5f80f7"),
    ],
)
def test_secrets_leave_a_text(text: str, secret: str) -> None:
    redacted = RULES.text(text)
    assert secret not in redacted
    assert RULES.text(redacted) == redacted
    assert "***" in redacted or "hash:" in redacted


def test_what_stands_around_a_secret_stays() -> None:
    assert RULES.text("/login?user=anna&password=hunter2&next=%2F") == (
        "/login?user=anna&password=***&next=%2F"
    )
    assert RULES.text('{"secret": "x y", "n": 1}') == '{"secret": "***", "n": 1}'
    assert RULES.text("redis://:hunter2@cache:6379/0") == "redis://:***@cache:6379/0"
    assert RULES.text("Server=db;Password=a;Timeout=5") == "Server=db;Password=***;Timeout=5"


@pytest.mark.parametrize(
    "text",
    [
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "123e4567-e89b-12d3-a456-426614174000",
        "order 4111111111111112 of 1772409600000000000",
        "@angular/core@17.3.1 and lodash@4.17.21-beta.rc",
        "git@github.com:angular/angular.git",
        "bearer authentication failed",
        "basic authentication is off",
        "Python/3.11.7 (linux) httpx/0.28.1",
        "SELECT id FROM products WHERE price > 10 ORDER BY id LIMIT 20",
        "http://catalogue:8080/products?page=3&category=shoes",
        "the tokens of 3 users are passed on",
        "2026-11-24T08:40:05.123456Z took 41.5 ms",
    ],
)
def test_harmless_texts_stay(text: str) -> None:
    assert RULES.text(text) == text


def test_sql_loses_its_literals_and_keeps_its_shape() -> None:
    statement = (
        "INSERT INTO t1 (a, b) VALUES ('anna''s', 4711), (E'x', $1) -- %(id_1)s\n AND c = $$s$$"
    )
    assert RULES.attribute("db.query.text", statement) == (
        "INSERT INTO t1 (a, b) VALUES (?, ?), (?, $1) -- %(id_1)s\n AND c = ?"
    )
    ambiguous = r"SELECT 1 FROM t WHERE path = 'C:\' AND token = 'hunter2'"
    assert "hunter2" not in str(RULES.attribute("db.statement", ambiguous))


def test_most_random_numbers_are_no_cards() -> None:
    changed = sum(RULES.text(str(n)) != str(n) for n in range(4 * 10**15, 4 * 10**15 + 2_000))
    assert changed == 200  # one in ten passes Luhn's checksum


def test_random_trace_and_span_ids_stay() -> None:
    rng = random.Random(7)
    ids = [f"{rng.getrandbits(128):032x}" for _ in range(2_000)]
    assert [RULES.text(one) for one in ids] == ids


@given(st.text())
def test_redaction_is_idempotent_and_never_raises(text: str) -> None:
    once = RULES.text(text)
    assert RULES.text(once) == once
    RULES.attribute(text, text)


@given(
    st.sampled_from(["password", "api_key", "client-secret", "accessToken", "authorization"]),
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8, max_size=30),
    st.sampled_from(["{}={}", '"{}": "{}"', "x&{}={}&y", "{}: {}", "('{}', '{}')", "({}={})"]),
)
def test_a_named_secret_leaves_any_frame(name: str, value: str, frame: str) -> None:
    hidden = f"zq{value}zq"
    assert hidden not in RULES.text(frame.format(name, hidden))


HOSTILE = [
    *("eyJ-", "a", "a@", "\\", "\\'", '\\"', "://a:", "'", "x.", " ", "é", "\n", "@", "-", "%2Ba"),
    *("bearer ", "bearer a,", "basic ", "basic zz,aB", "cookie:", "cookie, b", "git@", "a@b.co.1"),
    *("-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "[parameters: a", "[parameters: a]\n", "Key ("),
    *("Failing row contains (", "Key (a)=()", "password", "password=", "password=a", "password=,"),
    *(
        "password=,a",
        "password=a,aa",
        'password="',
        'password\\"',
        "token%3D",
        "pwd",
        "sig=1&",
        "sk-",
    ),
    *(
        "4",
        "4 ",
        "4111 1111 1111 1111 ",
        "4111111111111111 ",
        "eyJaaaaaaaa.a.a ",
        "xox",
        "$a$",
        "$$",
    ),
    *("$", "1", "1e", "1.", "1 ", "''", "E'", "0123456789abcdef", "hash:", "***"),
]


@pytest.mark.parametrize("seed", range(8))
def test_every_text_is_searched_in_linear_time(seed: int) -> None:
    needed = {part for pattern in RULES.patterns for part in pattern.needs}
    parts = [*HOSTILE, *sorted(needed)]
    draw = random.Random(seed)
    pairs = ["".join(draw.choices(parts, k=2)) for _ in range(20)]
    for part in [*parts[seed::8], *pairs]:
        text = (part * 65_536)[:65_536]
        for hostile in (text, f"{text} {' '.join(needed)}", f"{' '.join(needed)} {text}"):
            started = time.thread_time()
            RULES.text(hostile)
            RULES.attribute("db.query.text", hostile)
            RULES.key_rule(hostile)
            # Measured: 0.05 s at most. Quadratic time would be 10 s and more.
            assert time.thread_time() - started < 2.0, part


def test_a_search_lets_other_threads_run() -> None:
    text = "eyJ-" * (LONGEST_TEXT // 4) + " @ password="
    searching = threading.Thread(target=lambda: [RULES.text(text) for _ in range(5)])
    longest = 0.0
    searching.start()
    seen = time.perf_counter()
    while searching.is_alive():
        now = time.perf_counter()
        longest, seen = max(longest, now - seen), now
    assert longest < 0.5  # measured: 0.01 s


def test_a_very_long_text_is_cut_at_a_blank_before_it_is_searched() -> None:
    text = "x" * (LONGEST_TEXT - 10) + " ada@shop.example " + "y" * 100
    assert RULES.text(text) == "x" * (LONGEST_TEXT - 10) + privacy.CUT
    short = text[200:]
    assert RULES.text(short).endswith("y" * 100) and "ada@" not in RULES.text(short)


def test_a_text_of_very_many_secrets_loses_its_rest() -> None:
    redacted = RULES.text("4111111111111111 " * 1_500)
    assert "4111" not in redacted
    assert redacted.count(MASK) == MAX_MATCHES + 1


def test_a_tagged_sql_text_ends_at_its_own_tag() -> None:
    statement = "select $a$ it's $b$ 1 $a$, 2, $b$ open"
    assert RULES.attribute("db.statement", statement) == "select ?, ?, ?"


@pytest.mark.parametrize(
    ("regex", "found"),
    [
        (r"(?<!a)b", "invalid perl operator"),
        (r"a(?=b)", "invalid perl operator"),
        (r"(a)\1", "invalid escape"),
        (r"(?>a+)b", "invalid perl operator"),
        (r"a{1,4000}", "invalid repetition"),
        (r"\pL{1,20}x", "instructions"),
        (r"\b", "the empty text"),
    ],
)
def test_a_pattern_that_may_not_be_linear_is_refused_with_its_line(
    tmp_path: Path, regex: str, found: str
) -> None:
    file = tmp_path / "privacy.yaml"
    file.write_text(f"keys: []\npatterns:\n  p:\n    action: mask\n    regex: '{regex}'\n")
    with pytest.raises(BadParameter, match=found) as caught:
        load_rules(file, salt="s")
    assert f"{file}:5: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        ("", 1, "[]"),
        ("keys: []\n", 1, "['keys']"),
        ("keys:\n  - drop: [a]\n  - burn: [b]\npatterns: {}\n", 3, "'burn'"),
        ("keys:\n  - drop:\n    - '*'\npatterns: {}\n", 3, "'*'"),
        ("keys:\n  - drop: a\npatterns: {}\n", 2, "'a'"),
        ("keys:\n  - drop: [1]\npatterns: {}\n", 2, "found 1"),
        ("keys: []\npatterns:\n  p:\n    action: mask\n    regex: '('\n", 5, "missing )"),
        ("keys: []\npatterns:\n  p: {action: mask, regex: 'a*'}\n", 3, "the empty text"),
        ("keys: []\npatterns:\n  p: {action: keep, regex: a}\n", 3, "'keep'"),
        ("keys: []\npatterns:\n  p: {action: mask, regex: a, need: [b]}\n", 3, "need"),
        ("keys: []\npatterns:\n  p: {action: mask, regex: a, needs: [B]}\n", 3, "'B'"),
        ("keys: []\npatterns:\n  p: {action: mask, regex: a, check: mod97}\n", 3, "'mod97'"),
        (
            "keys: []\npatterns:\n  p: {action: mask, regex: a}\n  p: {}\n",
            4,
            "is on line 3 already",
        ),
        ("keys: [\n", 2, "expected"),
    ],
)
def test_a_bad_file_names_its_line(tmp_path: Path, content: str, line: int, found: str) -> None:
    file = tmp_path / "privacy.yaml"
    file.write_text(content)
    with pytest.raises(BadParameter) as caught:
        load_rules(file, salt="s")
    assert f"{file}:{line}: " in str(caught.value) and found in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r"nowhere\.yaml"):
        load_rules(tmp_path / "nowhere.yaml", salt="s")


def test_the_salt_comes_from_the_environment_and_its_absence_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "privacy.yaml"
    file.write_text("keys:\n  - hash: [who]\npatterns: {}\n")

    def hashed() -> str | None:
        return load_rules(file).attribute("who", "anna")

    monkeypatch.setenv("APM_PRIVACY_SALT", "pepper")
    assert hashed() == hashed()
    assert not caplog.records
    monkeypatch.delenv("APM_PRIVACY_SALT")
    privacy._say_once.cache_clear()
    assert hashed() != hashed()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_action_of_a_pattern_may_cut_out(tmp_path: Path) -> None:
    file = tmp_path / "privacy.yaml"
    file.write_text("keys: []\npatterns:\n  p: {action: drop, regex: 'x+', needs: [x]}\n")
    rules: PrivacyRules = load_rules(file, salt="s")
    assert rules.text("axxb") == "ab"


def test_importing_the_rules_loads_nothing_heavy() -> None:
    program = (
        "import sys, apm_analytics.foundation.privacy;"
        "print([m for m in ('pydantic','pyarrow','duckdb','polars','numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
