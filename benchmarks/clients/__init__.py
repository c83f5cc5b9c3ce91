"""Clients below pika, on bare sockets: light ones, and a hostile one."""
