"""What a federation has on its broker: clients, fleets, users, exchanges, queues."""
