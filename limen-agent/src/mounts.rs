//! Which file systems are mounted, from `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `major:minor`.
    number: String,
    /// What of the file system is mounted: `/` for all of it.
    root: String,
    pub(crate) point: PathBuf,
    pub(crate) fs_type: String,
    pub(crate) device: String,
    /// Whether the file system itself cannot be written to, however this process sees it.
    pub(crate) read_only: bool,
}

/// Types that hold no data of their own, as node_exporter leaves them out.
const EXCLUDED_TYPES: [&str; 25] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "procfs",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
    "efivarfs",
];
/// Places of the system's own, and of containers.
const EXCLUDED_POINTS: [&str; 6] =
    ["/dev", "/proc", "/sys", "/run/credentials", "/var/lib/docker", "/var/lib/containers/storage"];

impl Mount {
    /// One line of mountinfo (proc(5)): `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS] - TYPE DEVICE OPTIONS`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ').skip(2);
        let mut text = || words.next().map(|word| String::from_utf8_lossy(&unescape(word)).into_owned());
        let (number, root) = (text()?, text()?);
        let point = PathBuf::from(OsString::from_vec(unescape(words.next()?)));
        let mut words = words.skip_while(|word| *word != b"-").skip(1);
        let mut text = || words.next().map(|word| String::from_utf8_lossy(&unescape(word)).into_owned());
        let (fs_type, device, options) = (text()?, text()?, text()?);
        let read_only = options.split(',').any(|option| option == "ro");
        Some(Self { number, root, point, fs_type, device, read_only })
    }

    /// Whether people ask for its room: `/` always, whatever it is.
    fn is_shown(&self) -> bool {
        let excluded = || {
            EXCLUDED_TYPES.contains(&self.fs_type.as_str())
                || EXCLUDED_POINTS.iter().any(|point| self.point.starts_with(point))
        };
        self.point.as_os_str() == "/" || !excluded()
    }
}

/// The mounts in a text of mountinfo that are shown: each place once, as it was mounted last, and no
/// second place of a part of a file system (a bind mount) whose whole has one.
pub(crate) fn parse(mountinfo: &[u8]) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in mountinfo.split(|byte| *byte == b'\n').filter_map(Mount::parse) {
        mounts.retain(|earlier| earlier.point != mount.point);
        mounts.push(mount);
    }
    let wholes: Vec<String> =
        mounts.iter().filter(|mount| mount.root == "/").map(|mount| mount.number.clone()).collect();
    mounts.retain(|mount| mount.is_shown() && (mount.root == "/" || !wholes.contains(&mount.number)));
    mounts
}

/// Blanks, line ends and backslashes are `\ooo` there.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (byte, octal.and_then(|digits| u8::from_str_radix(digits, 8).ok())) {
            (b'\\', Some(byte)) => {
                plain.push(byte);
                rest = &after[3..];
            }
            _ => {
                plain.push(*byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_with_room_are_shown_once() {
        let mounts = parse(
            b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
              23 22 0:5 / /proc rw - proc proc rw\n\
              24 22 0:6 / /dev/shm rw - tmpfs tmpfs rw\n\
              25 22 8:1 /var/tmp /tmp ro - ext4 /dev/sda1 rw\n\
              26 22 8:2 / /srv/a\\040b ro master:2 propagate_from:1 - xfs /dev/sdb rw\n\
              27 22 0:7 / /mnt rw - tmpfs tmpfs rw\n\
              28 22 0:8 / /mnt rw - nfs server:/x\\134y ro,vers=4\n\
              29 22 0:30 /@home /home rw - btrfs /dev/sdc rw\n\
              30 22 0:31 / /var/lib/docker/overlay2/x rw - ext4 /dev/sdd rw\n\
              31 22 0:32 / /developers rw - ext4 /dev/sde rw\n\
              broken line\n",
        );
        let shown: Vec<(&str, &str, bool)> = mounts
            .iter()
            .map(|mount| (mount.point.to_str().expect("UTF-8"), mount.device.as_str(), mount.read_only))
            .collect();
        assert_eq!(
            shown,
            [
                ("/", "/dev/sda1", false),
                ("/srv/a b", "/dev/sdb", false),
                ("/mnt", "server:/x\\y", true),
                ("/home", "/dev/sdc", false),
                ("/developers", "/dev/sde", false),
            ]
        );
        let root = parse(b"1 0 0:9 / / rw - overlay overlay rw\n");
        assert_eq!(root.len(), 1, "a container has a root too");
    }
}
