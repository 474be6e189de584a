"""Which operation a path of the Network Integration API means: one table, read from top to bottom.

Behind `/api/{version}` comes the network id, which may be left out: the only network is meant then. The last
segment may end in `.json` or not. Old versions print some paths and verbs that later ones do not; all answer.

Source: vendor pages Network Integration API, versions 2015-12-09 to 2022-08-01.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gateway.sandbox import accounts, campaigns, numbers, tags
from gateway.sandbox.errors import not_found
from gateway.sandbox.exchange import Ask, Reply
from gateway.sandbox.network import Call, Network
from gateway.sandbox.sample import NETWORK_ID

Handler = Callable[[Network, Call], Reply]
Verbs = dict[str, Handler]

ADVERTISER = "advertisers/{advertiser}"
CAMPAIGN = f"{ADVERTISER}/advertiser_campaigns/{{campaign}}"
AFFILIATE_CAMPAIGN = f"{CAMPAIGN}/affiliates/{{affiliate}}/affiliate_campaigns"
TAGS = "networks/{network}/js_tags"


@dataclass(frozen=True, slots=True)
class Route:
    """A path template in segments, `{name}` standing for an id, and a handler for each verb."""

    segments: tuple[str, ...]
    verbs: Verbs

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The ids of the path, or None when it is another path."""
        if len(segments) != len(self.segments):
            return None
        ids: dict[str, str] = {}
        for template, segment in zip(self.segments, segments, strict=True):
            if template.startswith("{"):
                ids[template[1:-1]] = segment
            elif template != segment:
                return None
        return ids


def route(template: str, **verbs: Handler) -> Route:
    return Route(tuple(part for part in template.split("/") if part), verbs)


def promo_number_routes(owner: str) -> Iterator[Route]:
    """Promo numbers of a campaign or affiliate campaign: by number, and by the network's id."""
    for collection, item in (("promo_numbers", "{number}"), ("promo_numbers_by_id", "{line}")):
        yield route(f"{owner}/{collection}", GET=numbers.promo_numbers_list, POST=numbers.promo_number_create)
        yield route(
            f"{owner}/{collection}/{item}",
            GET=numbers.promo_number_read,
            PUT=numbers.promo_number_update,
            DELETE=numbers.promo_number_delete,
        )


def ring_pool_routes(owner: str) -> Iterator[Route]:
    yield route(f"{owner}/ring_pools", GET=numbers.pools_list, POST=numbers.pool_create)
    yield route(
        f"{owner}/ring_pools/{{pool}}",
        GET=numbers.pool_read,
        POST=numbers.pool_create,
        PUT=numbers.pool_update,
        DELETE=numbers.pool_delete,
    )


ROUTES: tuple[Route, ...] = (
    # Logins come first: with an e-mail called "users" the path reads like that of an advertiser user.
    route("network/{email}/create_access_token", POST=accounts.access_token_create),
    route(f"{ADVERTISER}/{{email}}/create_access_token", POST=accounts.access_token_create),
    route("affiliates/{affiliate}/{email}/create_access_token", POST=accounts.access_token_create),
    route("", GET=accounts.network_prompts),
    route(
        "network",
        GET=accounts.network_read,
        POST=accounts.network_users_write,
        PUT=accounts.network_users_write,
    ),
    route("advertisers", GET=accounts.advertisers_list, POST=accounts.advertiser_write),
    route(
        ADVERTISER,
        GET=accounts.advertiser_read,
        POST=accounts.advertiser_write,
        PUT=accounts.advertiser_write,
        DELETE=accounts.advertiser_delete,
    ),
    route(f"{ADVERTISER}/users", GET=accounts.users_list, POST=accounts.user_write),
    route(
        f"{ADVERTISER}/users/{{user}}",
        GET=accounts.user_read,
        PUT=accounts.user_write,
        DELETE=accounts.user_delete,
    ),
    route(f"{ADVERTISER}/affiliates", GET=accounts.relationships_list),
    route(
        f"{ADVERTISER}/affiliates/{{affiliate}}",
        GET=accounts.relationship_read,
        POST=accounts.relationship_write,
        PUT=accounts.relationship_write,
        DELETE=accounts.relationship_delete,
    ),
    route("affiliates", GET=accounts.affiliates_list, POST=accounts.affiliate_write),
    route(
        "affiliates/{affiliate}",
        GET=accounts.affiliate_read,
        POST=accounts.affiliate_write,
        PUT=accounts.affiliate_write,
        DELETE=accounts.affiliate_delete,
    ),
    route(f"{ADVERTISER}/advertiser_campaigns", GET=campaigns.campaigns_list, POST=campaigns.campaign_write),
    route(
        CAMPAIGN,
        GET=campaigns.campaign_read,
        POST=campaigns.campaign_write,
        PUT=campaigns.campaign_write,
        DELETE=campaigns.campaign_delete,
    ),
    route(f"{CAMPAIGN}/quick_stats", GET=campaigns.quick_stats),
    route(f"{CAMPAIGN}/go_live", POST=campaigns.go_live, GET=campaigns.go_live),
    route(f"{CAMPAIGN}/archive", POST=campaigns.archive, GET=campaigns.archive),
    route(f"{CAMPAIGN}/unarchive", POST=campaigns.unarchive, GET=campaigns.unarchive),
    route(f"{CAMPAIGN}/affiliate_campaigns", GET=campaigns.affiliate_campaigns_list),
    route(f"{CAMPAIGN}/affiliates", GET=campaigns.affiliate_campaigns_list),
    route(
        AFFILIATE_CAMPAIGN,
        GET=campaigns.affiliate_campaign_read,
        POST=campaigns.affiliate_campaign_create,
        PUT=campaigns.affiliate_campaign_update,
        DELETE=campaigns.affiliate_campaign_delete,
    ),
    *promo_number_routes(CAMPAIGN),
    *promo_number_routes(AFFILIATE_CAMPAIGN),
    *ring_pool_routes(CAMPAIGN),
    *ring_pool_routes(AFFILIATE_CAMPAIGN),
    # After the literal children, which an id of an affiliate campaign could otherwise hide.
    route(
        f"{AFFILIATE_CAMPAIGN}/{{affiliate_campaign}}",
        GET=campaigns.affiliate_campaign_item(campaigns.affiliate_campaign_read),
        POST=campaigns.affiliate_campaign_item(campaigns.affiliate_campaign_create),
        PUT=campaigns.affiliate_campaign_item(campaigns.affiliate_campaign_update),
    ),
    route("customer_phone_numbers", GET=numbers.destinations_list),
    route(
        "customer_phone_numbers/{destination}",
        GET=numbers.destination_read,
        DELETE=numbers.destination_delete,
    ),
    route(TAGS, GET=tags.tags_list, POST=tags.tag_create),
    route(f"{TAGS}/{{tag}}", GET=tags.tag_read, PUT=tags.tag_update, DELETE=tags.tag_delete),
    route(f"{TAGS}/{{tag}}/pause", POST=tags.tag_pause),
    route(f"{TAGS}/{{tag}}/unpause", POST=tags.tag_unpause),
    route(f"{TAGS}/{{tag}}/go_live", POST=tags.tag_go_live),
    route(f"{TAGS}/{{tag}}/revert", POST=tags.tag_revert),
    route(f"{TAGS}/{{tag}}/revisions", GET=tags.revisions_list, POST=tags.revision_create),
    route(
        f"{TAGS}/{{tag}}/revisions/{{revision}}",
        GET=tags.revision_read,
        PUT=tags.revision_update,
        DELETE=tags.revision_delete,
    ),
    route("i/networks/{network}/virtual_lines", GET=numbers.virtual_lines),
    route("i/advertisers/{advertiser}/virtual_lines", GET=numbers.virtual_lines),
)


def answer(ask: Ask, version: str, segments: Sequence[str], network: Network) -> Reply:
    """Args: segments: behind `/api/{version}`. Raises: Refused."""
    network_id, rest = split_network(unsuffixed(segments))
    for each in ROUTES:
        ids = each.match(rest)
        if ids is not None and ask.method in each.verbs:
            check_network(network_id, ids.get("network", NETWORK_ID))
            return each.verbs[ask.method](network, Call(ask, version, ids))
    raise not_found(f"{ask.method} {ask.path}")


def unsuffixed(segments: Sequence[str]) -> tuple[str, ...]:
    """The segments without `.json` at the end; other suffixes are part of an id, and ids may hold dots."""
    return (*segments[:-1], segments[-1].removesuffix(".json")) if segments else ()


def split_network(segments: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The network id, the sample network's when it is left out, and what follows."""
    if segments and segments[0].isascii() and segments[0].isdigit():
        return segments[0], segments[1:]
    return NETWORK_ID, segments or ("network-id-missing",)


def check_network(*named: str) -> None:
    for each in named:
        if each != NETWORK_ID:
            raise not_found(f"Network {each}")
