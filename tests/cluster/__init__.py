"""Three RabbitMQ nodes in network namespaces, whose wires can be cut, and a ledger on them."""
