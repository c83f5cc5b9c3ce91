"""What was given away: in memory, and on the disk before anybody has it."""
