"""Values about one content: pieces, verified leaves, matching blocks, transfer statistics. No sockets, no cache."""
