"""Search: pictures by a text or by another picture, in a folder (LanceDB) or in memory, by exact cosine."""
