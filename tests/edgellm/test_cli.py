"""The command line as scripts see it: payload, exit status, error lines."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edgellm
from edgellm import cli, commands, registry
from edgellm.exporters import architectures
from edgellm.exporters.architectures import llama
from edgellm.runtime import tuning
from edgellm.runtime.kernels import simd

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"


def start(*words: object, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "edgellm", *map(str, words)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, preexec_fn=heed_signals, **(pipes | options))


def heed_signals() -> None:
    """Undo what a shell or nohup does to commands in the background: they ignore these."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def run(*words: object, stdin: str | None = None) -> subprocess.CompletedProcess:
    process = start(*words, stdin=subprocess.PIPE)
    out, err = process.communicate(stdin, timeout=120)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def test_run_writes_the_text_only(random_bundle: Path) -> None:
    words = ("run", random_bundle, "-p", "Once", "-n", 12, "--temp", 0, "--threads", 1)
    done = run(*words)
    fields = json.loads(run(*words, "--json").stdout)

    assert done.returncode == 0
    assert done.stdout == fields["text"] + "\n"
    assert "tokens/s" in done.stderr
    assert len(fields["token_ids"]) == fields["generation_tokens"] == 12
    assert fields["prompt_tokens"] == 4
    for name in ("prompt_tps", "generation_tps", "time_to_first_token_s", "peak_memory_bytes"):
        assert fields[name] > 0


def test_speculation_changes_the_figures_only(random_bundle: Path, main) -> None:
    words = ("run", random_bundle, "-p", "a b a b a b", "-n", 40, "-t", 1)
    plain = json.loads(main(*words, "--json")[1])
    fields = json.loads(main(*words, "--json", "--speculate", "ngram")[1])
    _, text, notes = main(*words, "--speculate", "ngram")

    assert plain["speculation"] is None
    assert fields["token_ids"] == plain["token_ids"]
    assert text == fields["text"] + "\n" == plain["text"] + "\n"
    counts = fields["speculation"]
    assert 0 <= counts["accepted_tokens"] <= counts["drafted_tokens"]
    assert 0 < counts["calls_per_token"] <= 1
    assert "drafted tokens accepted" in notes


def test_quiet_says_nothing_on_stderr(random_bundle: Path) -> None:
    words = (random_bundle, "-n", 3, "-t", 1)
    done = run("-q", "run", *words, "-p", "-", stdin="Once")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("run", *words, "-p", "Once", "-q").stdout


def test_run_goes_on_with_a_session(random_bundle: Path, tmp_path: Path, main) -> None:
    words = ("--temp", 1, "--seed", 5, "-n", 3, "--session", tmp_path / "s", "--json", "-t", 1)
    ids = [json.loads(main("run", random_bundle, "-p", "Once", *words)[1])["token_ids"]]
    ids.append(json.loads(main("run", random_bundle, "--ids", "7", *words)[1])["token_ids"])

    with edgellm.load(random_bundle, threads=1) as model:
        prompt = [*model.tokenizer.encode("Once"), *ids[0], 7]
        text = [
            token.token_id for token in model.stream(prompt, max_tokens=3, temperature=1, seed=5)
        ]
    assert text == ids[1]


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("run", "no-such-bundle", "-p", "a"), 1, "no bundle here"),
        (("run", "BUNDLE", "-p", ""), 2, "the prompt is empty"),
        (("run", "BUNDLE", "-p", "a", "--temp", "-1"), 2, "temperature is -1.0"),
        (("run", "BUNDLE", "-p", "a", "--top-p", "2"), 2, "top_p is 2.0"),
        (("run", "BUNDLE", "-p", "a" * 70), 1, "70 tokens and needs room for 1 more"),
        (("run", "BUNDLE", "--ids", "1,288"), 2, "token id 288 at position 1"),
        (("run", "BUNDLE", "-p", "a", "--context", "65"), 2, "context is 65"),
        (("run", "BUNDLE", "-p", "a", "--session", "CONFIG"), 1, "no usable safetensors file"),
        (("chat", "BUNDLE"), 2, "--chat-template FILE"),
        (("eval", "BUNDLE", "--text", "no-such-file"), 2, "cannot be read"),
        (("eval", "no-such-source", "--float", "--text", "CONFIG"), 1, "no-such-source"),
        (("verify", "no-such-bundle"), 1, "no bundle here"),
        (("bench", "BUNDLE", "-p", "65", "-n", "1"), 2, "needs 65 tokens"),
        (("run", "BUNDLE", "-p", "a", "--session", "no-such-folder/s"), 2, "there is no folder"),
        (("run", "no\x1b[31msuch\nbundle", "-p", "a"), 1, "no\\x1b[31msuch\\nbundle: no bundle"),
        (("export", "no such source", "-o", "x"), 2, "no such directory"),
        (("export", "CONFIG", "-o", "x"), 2, "no such directory"),
        (("export", "BUNDLE", "-o", "x", "--calib", "no-such-file"), 2, "cannot be read"),
        (("export", "--random", "CONFIG", "-o", "x", "--calib", "f"), 2, "needs a checkpoint"),
        (("export", "--random", "CONFIG", "-o", "x", "--revision", "v"), 2, "needs a checkpoint"),
        (("export", "--random", "CONFIG", "-o", "BUNDLE"), 1, "pass --force"),
        (("export", "--random", "UNKNOWN", "-o", "x"), 3, "model_type 'other'"),
        (("export", "CONFIG", "-o", "x", "--outliers", "1%"), 2, "do not belong to --quant int8"),
        (("inspect", "no-such-bundle"), 1, "no bundle here"),
        (("warmup", "no-such-bundle"), 1, "no bundle here"),
    ],
)
def test_errors_are_one_line_and_a_status(
    random_bundle: Path, tmp_path: Path, main, words: tuple, status: int, reason: str
) -> None:
    config = random_bundle / "config.json"
    unknown = tmp_path / "config.json"
    unknown.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "other"}))
    places = {"BUNDLE": random_bundle, "CONFIG": config, "UNKNOWN": unknown}

    got, out, err = main("-q", *(places.get(word, word) for word in words))

    assert (got, out) == (status, "")
    assert err.startswith("edgellm: error: ")
    assert reason in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [(), ("bogus",), ("run",), ("run", "b"), ("run", "b", "-p", "a", "-n", "0"),
     ("run", "b", "-p", "a", "-n", "x"), ("run", "b", "--ids", "1,a"), ("export", "-o", "x"),
     ("export", "c", "-o", "x", "--outliers", "few"),
     ("run", "b", "-p", "a", "--speculate", "x"), ("bench", "b", "-t", "0"),
     ("verify", "b", "--executor", "gpu")],
)  # fmt: skip
def test_wrong_usage_is_status_2(main, words: tuple) -> None:
    status, out, err = main(*words)

    assert (status, out) == (2, "")
    assert "usage: edgellm" in err


def test_a_traceback_is_shown_when_asked_for(main) -> None:
    _, _, err = main("run", "no-such-bundle", "-p", "a", "-v")

    assert err.splitlines()[-1].startswith("edgellm: error: no-such-bundle")


def test_verify_ends_with_4_and_names_the_file(random_bundle: Path, tmp_path: Path, main) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in random_bundle.rglob("*"):
        if file.is_file():
            target = bundle / file.relative_to(random_bundle)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    assert main("verify", bundle, "--executor", "numba", "-t", 1)[0] == 0
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "model.onnx").write_bytes(content)

    status, out, err = main("verify", bundle, "--json")

    assert status == 4
    assert json.loads(out)["passed"] is False
    assert "model.onnx: sha256 is" in err


def test_every_json_is_one_object(
    random_bundle: Path, tmp_path: Path, main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "tuning_path", lambda: tmp_path / "tuning.json")
    monkeypatch.delenv(simd.ENVIRONMENT, raising=False)
    text = tmp_path / "text.txt"
    text.write_text("one<|endoftext|>two")
    config = random_bundle / "config.json"
    fields = {
        ("inspect", random_bundle): "manifest",
        ("verify", random_bundle, "--executor", "numba", "-t", 1): "checks",
        ("eval", random_bundle, "--text", text, "-t", 1): "nats_per_token",
        ("doctor",): "findings",
        ("tune", random_bundle): "threads",
        ("export", "--random", config, "-o", tmp_path / "new"): "files",
    }
    for words, field in fields.items():
        status, out, _ = main(*words, "--json")
        assert status == 0
        assert field in json.loads(out)


def test_tables_for_people(
    random_bundle: Path, tmp_path: Path, main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "tuning_path", lambda: tmp_path / "tuning.json")
    monkeypatch.delenv(simd.ENVIRONMENT, raising=False)
    assert "us a decoded token" in main("tune", random_bundle)[1]
    (tmp_path / "text.txt").write_text("one")
    inspected = main("inspect", random_bundle, "--ops", "--tensors")[1]
    assert "bitnet, 109,848 parameters" in inspected
    assert "ternary-2bit/v1 (export --layout 2bit)" in inspected
    words = ("--text", tmp_path / "text.txt", "-t", 1)
    assert "nats per token" in main("eval", random_bundle, *words)[1]
    out = main("bench", random_bundle, "-p", 4, "-n", "2,3", "-t", 2, "-r", 1, "--by-op")[1]
    assert "decode 3" in out
    assert "threads wait" in out
    assert "LogitsHead K=" in out
    assert "ternary-2bit/v1" in out
    assert main("warmup", random_bundle, "-t", 1)[0] == 0
    assert main("doctor")[1].startswith("ok")


def test_chat_reads_a_pipe(random_bundle: Path, tmp_path: Path) -> None:
    template, saved = tmp_path / "t.jinja", tmp_path / "talk"
    template.write_text(TEMPLATE)
    words = ("chat", random_bundle, "--chat-template", template, "-n", 4, "-t", 1)
    lines = ["Hi", f"/save {saved}", "/undo", "/undo", "Hi", "/set seed=x", "/nonsense", "/stats",
             "/reset", "Hi", "/help", "/exit", "unread"]  # fmt: skip
    done = run(*words, stdin="\n".join(lines))
    with edgellm.load(random_bundle, threads=1) as model:
        model.read_chat_template(template)
        answer = model.chat([{"role": "user", "content": "Hi"}], max_tokens=4)

    assert done.returncode == 0
    assert done.stdout == f"{answer}\n" * 3
    assert "nothing to undo" in done.stderr
    assert "'x' is no int" in done.stderr
    assert "no command /nonsense" in done.stderr
    assert "tokens/s" in done.stderr
    again = run(*words, stdin=f"/load {saved}\n/undo\nHi\n")
    assert again.stdout == f"{answer}\n"


def wait_until_idle(process: subprocess.Popen[str]) -> None:
    """Wait until a process sleeps and has used no processor time for half a second."""
    used = ""
    for _ in range(120):
        time.sleep(0.5)
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "S" and fields[11] == used:
            return
        used = fields[11]


def test_ctrl_c_ends_a_run_with_130(random_bundle: Path, tmp_path: Path) -> None:
    process = start("run", random_bundle, "-p", "-", stdin=subprocess.PIPE)
    wait_until_idle(process)  # it waits for the prompt
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Traceback" not in err


def test_ctrl_c_while_the_command_is_looked_up_is_no_traceback(main, monkeypatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_parser", interrupted)

    assert main("--version") == (130, "", "")


def weights_written(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob(".*/bundle/weights.bin"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_export_that_is_ended_leaves_nothing(
    random_bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = json.loads((random_bundle / "config.json").read_text())
    config |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 40}
    (tmp_path / "config.json").write_text(json.dumps(config))
    process = start("export", "--random", tmp_path / "config.json", "-o", tmp_path / "out" / "b")
    deadline = time.monotonic() + 60
    # Past the first operators: while Python compiles their modules, it can lose a signal.
    while weights_written(tmp_path / "out") < 1 << 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert err == ""
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("closed", "words", "reason"),
    [
        ("<&-", ("run", "BUNDLE", "-p", "-"), "the prompt is empty"),
        (">&-", ("run", "BUNDLE", "-p", "a", "-n", "2", "-q"), ""),
        (">&-", ("doctor",), ""),
        ("2>&-", ("run", "BUNDLE", "-p", "a", "-n", "2"), ""),
    ],
)
def test_closed_streams_are_no_error(
    random_bundle: Path, closed: str, words: tuple, reason: str
) -> None:
    places = [str(random_bundle) if word == "BUNDLE" else word for word in words]
    line = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, "-m", "edgellm", *places],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == (2 if reason else 0)
    assert reason in done.stderr
    assert "internal error" not in done.stderr


def test_an_output_that_is_not_unicode_gets_replacements(random_bundle: Path) -> None:
    words = ("run", random_bundle, "--ids", "200", "-n", 20, "--temp", 5, "-t", 1, "-q")
    done = run(*words)
    process = start(*words, env={**os.environ, "PYTHONIOENCODING": "ascii"})

    assert process.communicate(timeout=60) == (done.stdout.encode("ascii", "replace").decode(), "")
    assert not done.stdout.isascii()


def test_what_a_bundle_says_cannot_steer_the_terminal(
    random_bundle: Path, tmp_path: Path, main
) -> None:
    bundle = shutil.copytree(random_bundle, tmp_path / "b")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "source": "\x1b]0;x\x07\na"}))

    out = main("inspect", bundle)[1]

    assert "\\x1b]0;x\\x07\\na" in out
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize(
    ("name", "arithmetic", "rows"),
    [
        ("vit", "sound", ["images of 28 x 28 x 1, patches of 7 x 7: 17 rows each", "5 labels"]),
        ("vit", "ivit", ["ivit: the operators of I-ViT", "calibrated on  random"]),
        ("bert", "sound", ["texts of up to 48 tokens", "64 numbers a text", "vocabulary 288"]),
    ],
)
def test_what_an_encoder_is(tmp_path: Path, main, name, arithmetic, rows) -> None:
    """Rows that mean something for it: no cache, no layout."""
    (tmp_path / "c.json").write_text(json.dumps(registry.load(architectures, name).TINY))
    target = tmp_path / "out"
    main("export", "--random", tmp_path / "c.json", "-o", target, "--arithmetic", arithmetic)

    out = main("inspect", target)[1]

    assert all(row in out for row in rows)
    assert not any(word in out for word in ("cache", "layout", "read a token"))


def test_a_reader_that_leaves_is_no_error(random_bundle: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = start("run", random_bundle, "-p", "Once", "-n", 50, "-t", 1, stdout=write_end)
    os.close(write_end)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 0
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_each_command_has_help_with_an_example(main) -> None:
    status, overview, _ = main("--help")
    assert status == 0
    for name in registry.names(commands):
        assert f"    {name} " in overview
        status, out, _ = main(name, "--help")
        assert status == 0
        assert f"example:\n  edgellm {name}" in out


def test_version(main) -> None:
    assert main("--version")[:2] == (0, f"edgellm {edgellm.__version__}\n")


def test_a_head_of_4_bits_is_said_by_export_and_inspect(main, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(llama.TINY))
    bundle = tmp_path / "out"
    outputs = [
        main("export", "--random", config, "-o", bundle, "--head-bits", 4),
        main("inspect", bundle),
    ]

    for status, out, err in outputs:
        assert status == 0
        assert "logits head W4A8" in out + err
