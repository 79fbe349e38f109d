"""What the documentation says of the protocol is what the code has."""

from __future__ import annotations

import array
import re
import socket
from pathlib import Path

import pytest

from paravirt.hostside.vhost_user import serve_vhost_user
from paravirt.transport.vhost_user import REQUESTS, Flags, Header, document
from tests.hostside.frontend import pair
from tests.hostside.serving import Echo

PAGE = Path(__file__).parent.parent / "docs" / "vhost-user.md"
MARK = "<!-- generated -->\n"


def section(title: str) -> str:
    """Return a section of the page, up to the next."""
    return PAGE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_tables_of_messages_are_current() -> None:
    assert PAGE.read_text().partition(MARK)[2] == document(), "run `make docs`"


async def supported(request: int, caplog: pytest.LogCaptureFixture) -> bool:
    """Say whether a backend knows what to do with a request, whatever it thinks of this one."""
    caplog.clear()
    row = REQUESTS[request]
    payload = bytes(row.payload.sizes().start)
    message = Header(request, Flags.VERSION, len(payload)).to_bytes() + payload
    stream, sock = pair()
    rights = array.array("i", [sock.fileno()] * row.fds[0])
    with sock:
        await sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        sock.shutdown(socket.SHUT_WR)
        await serve_vhost_user(Echo(), stream)
    return "not supported" not in caplog.text


@pytest.mark.parametrize("request_id", sorted(REQUESTS), ids=lambda one: REQUESTS[one].name)
async def test_page_names_what_the_backend_does_not_answer(
    request_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    unanswered = re.findall(r"`(\w+)`", section("What the backend does not answer"))

    assert (REQUESTS[request_id].name not in unanswered) == await supported(request_id, caplog)
