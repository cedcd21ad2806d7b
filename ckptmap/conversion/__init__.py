"""What happens to values between two checkpoints: blocks moved bit by bit, residues, stamps, schedules."""
