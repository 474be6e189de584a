"""A stand-in for Invoca's Transactions API and Network Integration API, with invented data.

Invoca offers no public sandbox. This one answers the documented operations, in memory, with the quirks that trip
a gateway: credentials in four places, writes behind GET, secrets in replies, rows of 175 columns in three
formats, five shapes of error. It knows nothing of the gateway and can be used by itself:

    sandbox = Sandbox(credential="T")
    runner, port = await start(sandbox)
    ...                                   # http://127.0.0.1:{port}/api/2020-10-01/networks/transactions/33.json
    sandbox.journal[-1].credentials       # [("header", "T")]
    sandbox.faults.next("500")
    await runner.cleanup()

Sample ids: network 33; advertisers 706 (campaigns spring, implants) and 707 (gutters); affiliates 808 and 809.
"""

from gateway.sandbox.app import make_app, start
from gateway.sandbox.faults import Fault, Faults
from gateway.sandbox.journal import Seen
from gateway.sandbox.sandbox import Sandbox

__all__ = ["Fault", "Faults", "Sandbox", "Seen", "make_app", "start"]
