"""VideoOlmo: Molmo with video, from frames to answers."""
