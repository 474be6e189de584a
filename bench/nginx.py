"""nginx twice: as the upstream of fixed answers, and as a plain proxy with a list of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.bodies import LARGE, MEDIUM, SIZES

_FRAME = """
master_process off; daemon off;
pid {folder}/{name}.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_timeout 600s; keepalive_requests 100000000;
  map_hash_bucket_size 4096;
  client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-f; uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;
{body}
}}
"""

_UPSTREAM = """
  open_file_cache max=16 inactive=600s;
  map $http_authorization $fine {{ default 0; "{token}" 1; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    default_type application/json;
    if ($fine = 0) {{ return 418; }}
    location = {medium} {{ root {folder}; try_files /medium.json =404; }}
    location = {large} {{ root {folder}; try_files /large.json =404; }}
    location / {{ root {folder}; try_files /small.json =404; }}
  }}
"""

_PROXY = """
  map $http_authorization $verdict {{ default 401; {verdicts} }}
  upstream vendor {{ server 127.0.0.1:{upstream_port}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    if ($verdict = 401) {{ return 401; }}
    if ($verdict = 403) {{ return 403; }}
    location / {{
      proxy_pass http://vendor; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Authorization "{token}";
    }}
  }}
"""


def upstream(folder: Path, port: int, token: str, bodies: Mapping[str, bytes]) -> Path:
    """The configuration of the upstream; its bodies are written beside it."""
    for name, size in zip(("small", "medium", "large"), sorted(SIZES.values()), strict=True):
        (folder / f"{name}.json").write_bytes(next(body for body in bodies.values() if len(body) == size))
    body = _UPSTREAM.format(token=token, port=port, folder=folder, medium=MEDIUM, large=LARGE)
    return _write(folder, "upstream", body)


def proxy(folder: Path, port: int, upstream_port: int, token: str, verdicts: Mapping[str, int]) -> Path:
    """The configuration of the proxy. `verdicts` are the statuses of whole Authorization headers."""
    listed = " ".join(f'"{text}" {status};' for text, status in verdicts.items())
    body = _PROXY.format(port=port, upstream_port=upstream_port, token=token, verdicts=listed)
    return _write(folder, "proxy", body)


def _write(folder: Path, name: str, body: str) -> Path:
    path = folder / f"{name}.conf"
    path.write_text(_FRAME.format(folder=folder, name=name, body=body))
    return path
