"""What the broker must look like, and how to get a broker.

Kept empty: workers import `broker_config.names` from here and must not pay for the rest. The
declaration is `broker_config.topology`, a private node `broker_config.node`, a broker of your own
`broker_config.apply` and `broker_config.check`, the command `broker_config.cli`.
"""
