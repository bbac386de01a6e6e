//! Compressed kernel payloads.
