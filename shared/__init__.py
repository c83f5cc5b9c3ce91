"""What both sides speak: layout, messages, chunks, the AMQP session. Knows no side."""
