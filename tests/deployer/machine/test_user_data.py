"""User-data: kinds, disguises, and what a cloud-config may hold."""

import gzip
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deployer.errors import UserDataRefused
from deployer.machine.user_data import MAX_ALIASES, MAX_DEPTH, MAX_USER_DATA, USER_DATA_KINDS, check_user_data


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"#cloud-config\nruncmd: [ls]\n", "cloud-config"),
        (b"#cloud-config\r\nruncmd: [ls]\r\n", "cloud-config"),
        (b"#cloud-config # ours\na: 1", "cloud-config"),
        (b"#cloud-config\nwrite_files: [{content: !!binary aGk=}]\n", "cloud-config"),
        (b"#cloud-config\na: &x {k: 1}\nb: *x\n", "cloud-config"),
        (b"#!/bin/sh\necho hello\n", "script"),
        (b"#!/bin/sh\n\xff\x00\n", "script"),
        (b"#cloud-config-archive\n- a\n", "cloud-config-archive"),
        (b'#cloud-config-jsonp\n[{"op": "add"}]\n', "cloud-config-jsonp"),
        (b"#cloud-boothook\n#!/bin/sh\n", "boothook"),
        (b"#part-handler\n", "part-handler"),
        (b"#upstart-job\n", "upstart-job"),
        (b"#include\nhttp://x/\n", "include"),
        (b"#include-once http://x/\n", "include"),
        (b"#include http://x/\n", "include"),
        (b"## template: jinja\n#cloud-config\na: {{ v1 }}\n", "jinja-template"),
        (b"##template:jinja\n#cloud-config\n", "jinja-template"),
        (b" \n##  Template: jinja\n#cloud-config\n", "jinja-template"),
        (b"Content-Type: multipart/mixed\nMIME-Version: 1.0\n\n", "mime"),
        (b"x\nmime-version: 1.0\n\n", "mime"),
        (gzip.compress(b"#cloud-config\n", mtime=0), "gzip"),
    ],
)
def test_kinds(data: bytes, kind: str) -> None:
    assert check_user_data(data) == kind
    assert kind in USER_DATA_KINDS


CONFIG = b"#cloud-config\n"
ATTACKS = [
    ("nothing", b"", "says nothing of its kind"),
    ("white space only", b" \n", "says nothing of its kind"),
    ("text of no kind", b"hello", "begins with 'hello'"),
    ("a byte order mark", b"\xef\xbb\xbf#cloud-config\na: 1", "says nothing of its kind"),
    ("too much", b"#!" + b"x" * MAX_USER_DATA, "more than the 16384"),
    ("an include that cloud-init sees behind white space", b"  #include http://x/", "white space or capitals"),
    ("an include in capitals", b"#INCLUDE http://x/", "white space or capitals"),
    ("a script behind a line feed", b"\n#!/bin/sh", "white space or capitals"),
    ("a kind that only begins like another", b"#cloud-config2\na: 1", "end the line after '#cloud-config'"),
    ("a boothook with a tail", b"#cloud-boothook2\n", "end the line after"),
    ("a cloud-config that is a MIME message too", CONFIG + b"# MIME-Version: 1.0\na: 1\n", "MIME header"),
    ("a script that is a MIME message too", b"#!/bin/sh\n# Mime-VERSION: 1.0\n", "MIME header"),
    ("terminal escapes in the first line", b"\x1b[2Jx", r"\\x1b\[2Jx"),
    ("an empty cloud-config", CONFIG, "not a mapping but empty"),
    ("a list", CONFIG + b"- a\n", "not a mapping but a list"),
    ("a scalar", CONFIG + b"hello\n", "not a mapping but a str"),
    ("broken YAML", CONFIG + b"a: [1\n", r"not YAML at line 3"),
    ("two documents", CONFIG + b"a: 1\n---\nb: 2\n", "not YAML"),
    ("a tab for indentation", CONFIG + b"a:\n\tb: 1\n", "not YAML at line 3"),
    ("not UTF-8", CONFIG + b"a: \xff\n", "not UTF-8 at byte 17"),
    ("a NUL", CONFIG + b"a: \x00\n", "not YAML"),
    ("an object tag", CONFIG + b"a: !!python/object/apply:os.system [id]\n", "tag 'tag:yaml.org,2002:python/object"),
    ("a local tag", CONFIG + b"a: !include /etc/passwd\n", "tag '!include'"),
    ("a tag that no value fits", CONFIG + b"a: !!bool maybe\n", "has the tag"),
    ("a date that is none", CONFIG + b"a: 2026-99-99\n", "cannot be read"),
    ("a number that is too long", CONFIG + b"a: " + b"9" * 5000, "cannot be read"),
    ("an alias to nothing", CONFIG + b"a: *x\n", "not YAML"),
    ("a key that is a list", CONFIG + b"? [a]\n: 1\n", "not YAML"),
    ("too deep", CONFIG + b"a: " + b"[" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} deep"),
    ("far too deep", CONFIG + b"a: " + b"[" * 16000, f"more than {MAX_DEPTH} deep"),
    ("too many aliases", CONFIG + b"a: &x 1\nb: [" + b"*x," * (MAX_ALIASES + 1) + b"]", f"more than {MAX_ALIASES} aliases"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "data", "says"), ATTACKS, ids=[row[0] for row in ATTACKS])
def test_what_no_guest_should_get(sentence: str, data: bytes, says: str) -> None:
    with pytest.raises(UserDataRefused, match=says) as caught:
        check_user_data(data)
    assert str(caught.value).isprintable()


def test_merge_keys_cannot_grow_beyond_bounds() -> None:
    """Each level merges the one below nine times; unbounded, thirty levels would have 9**30 keys."""
    levels = "\n".join(f"l{n}: &l{n}\n  <<: [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 30))
    began = time.process_time()

    with pytest.raises(UserDataRefused, match="aliases"):
        check_user_data(f"#cloud-config\nl0: &l0 {{k: 1}}\n{levels}\n".encode())

    assert time.process_time() - began < 2


@given(st.binary(max_size=400))
def test_any_bytes_have_a_kind_or_are_refused(data: bytes) -> None:
    try:
        said = check_user_data(data) in USER_DATA_KINDS
    except UserDataRefused as refused:
        said = str(refused).isprintable()
    assert said


@given(st.text(max_size=200) | st.text(alphabet="a:-!&*<>[]{}|'\"#%@ \n019.", max_size=60))
def test_any_cloud_config_is_a_mapping_or_refused(text: str) -> None:
    data = b"#cloud-config\n" + text.encode("utf-8", "surrogatepass")
    try:
        kind = check_user_data(data)
    except UserDataRefused:
        return
    assert kind == "cloud-config"
    assert isinstance(yaml.safe_load(data.decode()), dict)
