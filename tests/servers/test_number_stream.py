"""The example of the README, as curl and a browser see it."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from playwright.sync_api import Page, expect
from tests.servers.conftest import Serve
from tests.servers.serving import ROOT, Server, curl, program

Example = Callable[[str], Server]


def test_curl_shows_five_numbers_one_after_the_other(example: Example) -> None:
    server = example("number_stream.py")
    command = [program("curl"), "-sN", "--noproxy", "*", "-D", "-", server.url]
    numbers_while_it_runs = 0

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            lines.append(line.rstrip())
            numbers_while_it_runs += line.startswith("data:") and running.poll() is None
    numbers = [line for line in lines if line.startswith("data:")]

    assert running.returncode == 0
    assert numbers == [f"data: {number}" for number in range(1, 6)]
    assert numbers_while_it_runs >= 4
    assert "content-type: text/event-stream; charset=utf-8" in [line.lower() for line in lines]


def test_example_listens_where_the_article_says() -> None:
    text = (ROOT / "examples" / "number_stream.py").read_text("utf-8")

    assert 'uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000' in text
    assert 'Route("/", endpoint=sse)' in text
    assert "from sse_starlette.sse import EventSourceResponse" in text
    assert "yield dict(data=i)" in text


def test_page_shows_numbers_reconnects_and_pings(example: Example, page: Page) -> None:
    server = example("number_stream.py")
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))

    page.goto(f"{server.url}/page")
    # What one sees first: it comes back by itself, and says what it had last.
    expect(page.locator(".request b")).to_have_text(["GET /page/numbers", "Last-Event-ID: 1"])
    expect(page.locator("#last-event-id")).to_have_text("1")
    expect(page.locator(".numbers").nth(1).locator("b")).to_have_text(list("23456"))
    gaps = page.locator(".numbers").nth(1).locator("small").all_text_contents()
    assert all(0.3 < float(gap.strip("+ s")) < 3 for gap in gaps), gaps
    # The next numbers follow on.
    expect(page.locator("#number")).to_have_text("7")
    expect(page.locator("#last-event-id")).to_have_text("6")
    expect(page.locator("#reconnects")).to_have_text("2")
    expect(page.locator("#state")).to_have_text("connected")

    # The silent stream beside it gets its pings.
    expect(page.locator("#last-ping")).not_to_have_text("none yet")
    assert re.search(r"^: ping - \d{4}-", page.locator("#wire").text_content() or "")
    assert problems == []


def test_numbers_come_over_tls(serve: Serve, page: Page, tmp_path: Path) -> None:
    certificate, key = throw_away_certificate(tmp_path)
    server = serve(
        "number_stream:app",
        *("--app-dir", ROOT / "examples"),
        *("--ssl-certfile", certificate, "--ssl-keyfile", key),
    )
    assert server.url.startswith("https://")

    done = curl("--insecure", server.url)
    page.goto(f"{server.url}/page")

    assert done.returncode == 0
    frames = [f"data: {number}\r\n\r\n" for number in range(1, 6)]
    assert done.stdout.decode() == "".join(frames)
    expect(page.locator("#number")).to_have_text("2", timeout=90_000)


def throw_away_certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    alternative = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file
