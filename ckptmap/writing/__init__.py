"""Files written whole or not at all: safetensors data by ranges, folders, and headers replaced in place."""
