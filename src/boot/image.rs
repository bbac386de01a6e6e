//! What kind of kernel a file is, and what to load where.
