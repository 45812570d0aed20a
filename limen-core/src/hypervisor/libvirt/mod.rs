//! The libvirt back end.
