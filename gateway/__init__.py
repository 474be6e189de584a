"""A policy enforcement gateway in front of Invoca's Transactions API and Network Integration API."""

__version__ = "0.1.0"
