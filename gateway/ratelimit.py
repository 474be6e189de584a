"""A rate over an injected clock: so many requests a minute for each key, spent one by one.

The generic cell rate algorithm: one number a key, the time at which its budget is whole again. Nothing runs in
the background, and a key that has been quiet for a minute costs nothing, because it is forgotten.

Source: draft-ietf-httpapi-ratelimit-headers (the header forms), RFC 6585 section 4 (429).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from itertools import islice

from gateway.problem import Headers, Problem

WINDOW_S = 60.0


class RateLimit:
    """`per_minute` requests for each key, all at once or spread out. 0 means that nothing is limited.

    `clock` is monotonic, in seconds. At most `max_keys` keys are remembered; beyond that the ones whose budget
    is whole go first, and if there are none, the oldest.
    """

    def __init__(
        self, name: str, per_minute: int, clock: Callable[[], float], max_keys: int = 65_536
    ) -> None:
        self.name = name
        self.per_minute = per_minute
        self._clock = clock
        self._max_keys = max_keys
        self._whole_at: dict[str, float] = {}

    def spend(self, key: str) -> Headers:
        """Spend one; the headers that tell the client where it stands.

        Raises: Problem "rate-limited" with Retry-After, when nothing is left.
        """
        if not self.per_minute:
            return ()
        now, cost = self._clock(), WINDOW_S / self.per_minute
        whole_at = max(self._whole_at.get(key, now), now) + cost
        left = int((WINDOW_S - (whole_at - now)) / cost + 1e-9)
        if whole_at - now > WINDOW_S + 1e-9:
            wait = max(1, round(whole_at - now - WINDOW_S + 0.5))
            raise Problem(
                "rate-limited",
                f"{self.per_minute} requests a minute are allowed.",
                headers=(("Retry-After", str(wait)), *self._headers(0, wait)),
            )
        if key not in self._whole_at and len(self._whole_at) >= self._max_keys:
            self._forget(now)
        self._whole_at[key] = whole_at
        return self._headers(left, max(1, round(whole_at - now + 0.5)))

    def give_back(self, key: str) -> None:
        """Undo one `spend`: what it was spent for will be asked for again."""
        if self.per_minute and key in self._whole_at:
            self._whole_at[key] -= WINDOW_S / self.per_minute

    def spent(self, key: str) -> bool:
        """Whether nothing is left for a key, without spending any."""
        if not self.per_minute:
            return False
        return self._whole_at.get(key, 0.0) - self._clock() + WINDOW_S / self.per_minute > WINDOW_S + 1e-9

    def _headers(self, left: int, reset_s: int) -> Headers:
        return (
            ("RateLimit-Policy", f'"{self.name}";q={self.per_minute};w={WINDOW_S:.0f}'),
            ("RateLimit", f'"{self.name}";r={left};t={reset_s}'),
        )

    def _forget(self, now: float) -> None:
        self._whole_at = {key: at for key, at in self._whole_at.items() if at > now}
        if len(self._whole_at) >= self._max_keys:
            # An eighth at once, so that the walk over all of them is not made for every new key.
            for key in list(islice(self._whole_at, max(1, self._max_keys // 8))):
                del self._whole_at[key]


def client_network(address: str) -> str:
    """The network an address is counted under: /24 for IPv4, /48 for IPv6, so that one host is not many."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(ip_network(f"{parsed}/{24 if parsed.version == 4 else 48}", strict=False))
