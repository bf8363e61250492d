"""What bursts cost on this device, where the time goes, and what else it could buy.

A case is a bundle on an engine with a batch size and a number of threads. Each case runs in a
process of its own, which has the machine's memory for itself and whose crash costs no other case;
the cases are gone through several times, so that what changes with time meets all alike.

    case -> worker (a process) -> samples -> result (JSON) -> table, picture, comparison, proposal
"""
