"""AMQP: connections to RabbitMQ, consuming, publishing with confirms, claims on queues."""
