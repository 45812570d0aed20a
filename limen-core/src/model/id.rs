//! Ids: UUIDs that cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])+ $name:ident;)+) => {$(
        $(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, ordered by time (UUID version 7).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )+};
}

ids! {
    /// A VM: the UUID of its libvirt domain.
    VmId;
    /// A volume in LIMEN's pool on a host; part of the volume's name there.
    VolumeId;
    /// An image.
    ImageId;
    /// A user.
    UserId;
    /// An owner of things; every user has one.
    OwnerId;
    /// An operation.
    OperationId;
    /// A host.
    HostId;
    /// A session: the `jti` of the token that it came with.
    SessionId;
    /// An API token.
    TokenId;
    /// One installation of LIMEN: one Store from its first start on.
    InstallId;
}
