"""What may go wrong here for a reason that is not a bug."""


class BrokerConfigError(Exception):
    """Something the operator can put right; the message is the one line that tells how."""
