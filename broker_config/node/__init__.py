"""A private RabbitMQ node, or a cluster of three: installed, started, recorded and stopped."""
