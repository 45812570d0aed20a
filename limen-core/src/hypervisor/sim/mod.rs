//! A hypervisor that exists only in memory.
