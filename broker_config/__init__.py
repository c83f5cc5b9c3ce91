"""What the broker must look like, and how to get a broker.

The declaration is `broker_config.declaration.topology`, a private node
`broker_config.node.lifecycle`, a broker of your own `broker_config.broker.apply` and
`broker_config.broker.drift`, the command `broker_config.cli`.
"""
