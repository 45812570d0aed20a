//! Volumes.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_filled_read_resized_and_removed() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    let bytes: Vec<u8> = (0..9_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let volume = blank(VolumeFormat::Raw, bytes.len() as u64);
    let of = reference(&volume);
    assert_eq!(host.read_volume(of).await.err().expect("no volume yet").kind(), ErrorKind::NotFound);
    host.create_volume(&volume).await.expect("create");
    host.create_volume(&volume).await.expect("create again");
    for _ in 0..2 {
        host.write_volume(of, source(bytes.clone()), bytes.len() as u64).await.expect("fill");
        let mut read = Vec::new();
        host.read_volume(of).await.expect("read").read_to_end(&mut read).await.expect("read to the end");
        assert!(read == bytes, "{} bytes came back", read.len());
    }
    let short = host.write_volume(of, source(bytes[..100].to_vec()), 200).await;
    assert_eq!(short.expect_err("it ends early").kind(), ErrorKind::Invalid);

    host.resize_volume(of, 64 << 20).await.expect("resize");
    host.resize_volume(of, 1 << 20).await.expect("smaller is left as it is");
    let overlay = VolumeSpec { backing: Some(of), ..blank(VolumeFormat::Qcow2, 64 << 20) };
    host.create_volume(&overlay).await.expect("create an overlay");
    host.resize_volume(reference(&overlay), 128 << 20).await.expect("resize the overlay");
    let mut sizes: Vec<_> = host
        .list_volumes()
        .await
        .expect("list")
        .into_iter()
        .map(|v| (v.volume.format.as_str(), v.capacity_bytes))
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [("qcow2", 128 << 20), ("raw", 64 << 20)]);

    let mut vm = definition("overlay");
    vm.spec.disks.push(disk(&overlay, DiskMode::Linked));
    host.create_definition(&vm).await.expect("define over an overlay");
    let xml = libvirt.virsh(&["dumpxml", "--inactive", &vm.id.to_string()]).expect_success();
    assert!(xml.contains(&format!("{}.raw'/>", volume.id)), "the chain is written out: {xml}");
    assert!(xml.contains("<backingStore/>"), "and closed: {xml}");
    host.remove_definition(vm.id).await.expect("remove");
    for volume in [reference(&overlay), of] {
        host.remove_volume(volume).await.expect("remove a volume");
    }
    assert!(host.list_volumes().await.expect("list").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_volume_is_never_believed_to_be_anything_else() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    // The header of a qcow2 over a file of the host, as a guest may write it on its disk.
    let secret = libvirt.dir().join("secret");
    std::fs::write(&secret, "canary".repeat(1000)).expect("write a file");
    let trap = libvirt.dir().join("trap.qcow2");
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&secret, &trap])
        .status();
    assert!(made.expect("run qemu-img").success());
    let bytes = std::fs::read(&trap).expect("read the trap");
    let length = bytes.len() as u64;
    let volume = blank(VolumeFormat::Raw, length);
    let of = reference(&volume);
    host.create_volume(&volume).await.expect("create");
    host.write_volume(of, source(bytes.clone()), length).await.expect("fill");
    libvirt.restart();
    until("the daemon is back", SOON, async || host.list().await.is_ok()).await;
    host.resize_volume(of, length + 4096).await.expect("resize");
    let mut read = Vec::new();
    host.read_volume(of).await.expect("read").read_to_end(&mut read).await.expect("read to the end");
    assert!(read.len() as u64 == length + 4096 && read.starts_with(&bytes), "{} bytes", read.len());
    let listed = host.list_volumes().await.expect("list");
    assert_eq!((listed.len(), listed[0].capacity_bytes), (1, length + 4096), "the size is that of the file");
    let mut vm = definition("trap");
    vm.spec.disks.push(disk(&volume, DiskMode::Linked));
    host.create_definition(&vm).await.expect("define");
    let xml = libvirt.virsh(&["dumpxml", "--inactive", &vm.id.to_string()]).expect_success();
    assert!(!xml.contains("secret") && xml.contains("type='raw'"), "{xml}");
    host.remove_definition(vm.id).await.expect("remove");
    host.remove_volume(of).await.expect("remove the volume");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_leaves_a_volume_that_can_be_removed() {
    let libvirt = PrivateLibvirt::start();
    let pool = libvirt.hidden_storage_dir().join("limen");
    let (pid, path) = (libvirt.pid().to_string(), pool.display().to_string());
    for command in [&["mkdir", "-p", &path][..], &["mount", "-t", "tmpfs", "-o", "size=2m", "limen", &path]] {
        let mut inside = std::process::Command::new("nsenter");
        assert!(inside.args(["-m", "-t", &pid]).args(command).status().expect("run nsenter").success());
    }
    let host = connect(&libvirt).await;
    let volume = blank(VolumeFormat::Raw, 8 << 20);
    host.create_volume(&volume).await.expect("create a sparse volume");
    let error = host.write_volume(reference(&volume), source(vec![1; 8 << 20]), 8 << 20).await;
    assert_eq!(error.expect_err("there is no space").kind(), ErrorKind::NoSpace);
    host.remove_volume(reference(&volume)).await.expect("remove the volume");
    assert!(host.list_volumes().await.expect("list").is_empty());
    assert!(host.host_info().await.expect("host info").free_bytes <= 2 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_goes_while_others_are_made() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    // libvirt does not look at its pool anew while a volume is being made in it.
    for _ in 0..5 {
        let volumes: Vec<_> = (0..6).map(|_| blank(VolumeFormat::Qcow2, 1 << 30)).collect();
        let made = futures_util::future::join_all(volumes.iter().map(|volume| host.create_volume(volume)));
        let unknown: Vec<_> = (0..6).map(|_| reference(&blank(VolumeFormat::Raw, 1))).collect();
        let gone = futures_util::future::join_all(unknown.into_iter().map(|volume| host.remove_volume(volume)));
        let (made, gone) = tokio::join!(made, gone);
        for result in made.into_iter().chain(gone) {
            result.expect("neither is in the other's way");
        }
        for volume in &volumes {
            host.remove_volume(reference(volume)).await.expect("remove");
        }
    }
    assert_eq!(host.list_volumes().await.expect("list").len(), 0);
}
