"""What a worker shows of itself: logs, metrics, traces, progress, and the events behind them."""
