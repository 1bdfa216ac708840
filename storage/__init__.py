"""Where bytes live: plain paths, S3, HTTP and memory behind one small protocol."""
