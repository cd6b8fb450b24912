//! What a container must not be able to do, tried from inside.

mod common;

use common::*;
use oci_spec::runtime::{
    Capability, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResourcesBuilder, MountBuilder, UserBuilder,
};
use runtime::{Code, spec};

#[tokio::test]
async fn paths_are_masked_and_read_only() {
    let Some(machine) = machine() else { return };
    let (_, text) = machine
        .sh("cat /proc/keys /proc/timer_list /proc/interrupts | wc -c; ls /sys/firmware /proc/acpi | grep -v :; \
            echo 1 > /proc/sys/vm/swappiness; touch /sys/x; echo end")
        .await;
    assert!(text.contains("0\n") && text.contains("end\n"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
}

#[tokio::test]
async fn a_symlink_in_the_image_leads_no_mount_out_of_it() {
    let Some(machine) = machine() else { return };
    let outside = machine.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let image = machine.dir.path().join("image");
    std::os::unix::fs::symlink(&outside, image.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../../..", image.join("up")).unwrap();
    let source = machine.dir.path().join("source");
    std::fs::write(&source, "bound").unwrap();
    let mut bundle =
        machine.bundle(&["sh", "-c", &format!("cat /absolute/a {}/a /up/b/c /b/c", outside.display())]);
    let mut mounts = bundle.spec.mounts().clone().unwrap();
    for target in ["/absolute/a", "/up/b/c"] {
        mounts.push(
            MountBuilder::default()
                .destination(target)
                .typ("bind")
                .source(&source)
                .options(vec!["rbind".to_owned(), "ro".to_owned()])
                .build()
                .unwrap(),
        );
    }
    bundle.spec.set_mounts(Some(mounts));
    let (exit, text) = machine.run(bundle).await;
    assert_eq!((exit.code, text.as_str()), (0, "boundboundboundbound"));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!std::path::Path::new("/b").exists());
}

#[tokio::test]
async fn no_mount_may_cover_proc() {
    let Some(machine) = machine() else { return };
    let mut bundle = machine.bundle(&["true"]);
    let mut mounts = bundle.spec.mounts().clone().unwrap();
    mounts.push(
        MountBuilder::default()
            .destination("/proc/sys")
            .typ("bind")
            .source("/tmp")
            .options(vec!["bind".to_owned()])
            .build()
            .unwrap(),
    );
    bundle.spec.set_mounts(Some(mounts));
    assert_eq!(machine.runtime.create(bundle).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_filter_refuses_for_real() {
    let Some(machine) = machine() else { return };
    let mut spec =
        docker_spec(&["sh", "-c", "unshare -U true; mount -t tmpfs x /tmp; unshare -m true; true"]);
    // With CAP_SYS_ADMIN, so that only the filter stands in the way.
    let mut caps = spec::DEFAULT_CAPABILITIES.to_vec();
    caps.push(Capability::SysAdmin);
    spec.process_mut().as_mut().unwrap().set_capabilities(Some(all_sets(&caps)));
    let (_, text) = machine.run(machine.bundle_of(spec)).await;
    assert_eq!(text.matches("ermission").count() + text.matches("not permitted").count(), 3, "{text}");
}

#[tokio::test]
async fn no_new_privileges_and_the_filter_go_together() {
    let Some(machine) = machine() else { return };
    let mut spec = docker_spec(&["grep", "-E", "NoNewPrivs|Seccomp:", "/proc/self/status"]);
    spec.process_mut().as_mut().unwrap().set_no_new_privileges(Some(true));
    let (_, text) = machine.run(machine.bundle_of(spec)).await;
    assert_eq!(text, "NoNewPrivs:\t1\nSeccomp:\t2\n");
}

#[tokio::test]
async fn devices_outside_the_rules_stay_closed_to_one_with_mknod() {
    let Some(machine) = machine() else { return };
    let script = "mknod /tmp/mem c 1 1 && cat /tmp/mem | head -c 1; mknod /tmp/zero c 1 5 && head -c 3 /tmp/zero | wc -c; \
        mknod /tmp/loop b 7 0 && head -c 1 /tmp/loop; read x; head -c 1 /tmp/kmsg; echo end";
    let mut bundle = machine.bundle(&["sh", "-c", script]);
    bundle.stdio.open_stdin = true;
    let (_, text) = {
        bundle.stdio.stdin_once = true;
        let container = machine.runtime.create(bundle).await.unwrap();
        let mut attachment = container.attach(runtime::AttachWant { stdin: true, ..output() }).await.unwrap();
        container.start().await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut attachment.writer).await.unwrap();
        let text = read_all(attachment, false).await;
        let exit = within(container.wait()).await.unwrap();
        container.delete().await.unwrap();
        (exit, text)
    };
    assert_eq!(text.matches("Operation not permitted").count(), 2, "{text}");
    assert!(text.contains("3\n"), "{text}");
}

#[tokio::test]
async fn device_rules_are_exact_and_change_while_it_runs() {
    let Some(machine) = machine() else { return };
    let rule = |major: i64, minor: i64, access: &str| {
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(major)
            .minor(minor)
            .access(access)
            .build()
            .unwrap()
    };
    // /dev/zero, only to be read at first.
    let without_zero = || {
        let mut rules = spec::default_device_rules();
        rules.retain(|rule| (rule.major(), rule.minor()) != (Some(1), Some(5)));
        rules
    };
    let mut rules = without_zero();
    rules.push(rule(1, 5, "rm"));
    let script = "while read how; do (case $how in r) : </dev/zero;; w) : >/dev/zero;; esac) 2>&1 && echo yes; echo .; done";
    let mut spec = docker_spec(&["sh", "-c", script]);
    let linux = spec.linux_mut().as_mut().unwrap();
    linux.set_resources(Some(LinuxResourcesBuilder::default().devices(rules).build().unwrap()));
    let mut bundle = machine.bundle_of(spec);
    bundle.stdio.open_stdin = true;
    let container = machine.runtime.create(bundle).await.unwrap();
    let mut attachment = container.attach(runtime::AttachWant { stdin: true, ..output() }).await.unwrap();
    container.start().await.unwrap();
    let mut ask = async |how: &str| {
        tokio::io::AsyncWriteExt::write_all(&mut attachment.writer, format!("{how}\n").as_bytes())
            .await
            .unwrap();
        read_until(&mut attachment, ".\n").await
    };
    assert!(ask("r").await.contains("yes"));
    assert!(ask("w").await.contains("Operation not permitted"));
    let mut rules = without_zero();
    rules.push(rule(1, 5, "wm"));
    let update = LinuxResourcesBuilder::default().devices(rules).build().unwrap();
    container.update(&update).await.unwrap();
    assert!(ask("r").await.contains("Operation not permitted"));
    assert!(ask("w").await.contains("yes"));
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_user_by_number_with_groups_and_no_capabilities() {
    let Some(machine) = machine() else { return };
    let mut spec = docker_spec(&[
        "sh",
        "-c",
        "id; grep -E 'Cap(Eff|Prm|Bnd)' /proc/self/status; echo $HOME; umask; echo x >/dev/stdout",
    ]);
    let process = spec.process_mut().as_mut().unwrap();
    let user = UserBuilder::default().uid(1000u32).gid(1000u32).additional_gids(vec![5u32, 6]).umask(0o27u32);
    process.set_user(user.build().unwrap());
    let mut sets = all_sets(&spec::DEFAULT_CAPABILITIES);
    sets.set_effective(None);
    sets.set_permitted(None);
    process.set_capabilities(Some(sets));
    let (exit, text) = machine.run(machine.bundle_of(spec)).await;
    assert_eq!(
        text,
        "uid=1000(bob) gid=1000 groups=5,6\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n/home/bob\n0027\nx\n"
    );
    assert_eq!(exit.code, 0);
}

#[tokio::test]
async fn a_missing_working_folder_is_made_and_one_outside_is_refused() {
    let Some(machine) = machine() else { return };
    let mut spec = docker_spec(&["pwd"]);
    spec.process_mut().as_mut().unwrap().set_cwd("/some/where/new".into());
    assert_eq!(machine.run(machine.bundle_of(spec)).await.1, "/some/where/new\n");
    for number in 3..20 {
        let mut spec = docker_spec(&["pwd"]);
        spec.process_mut().as_mut().unwrap().set_cwd(format!("/proc/self/fd/{number}").into());
        let error = machine.runtime.create(machine.bundle_of(spec)).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal, "{error}");
    }
}

#[tokio::test]
async fn limits_names_and_mounts_of_the_spec_apply() {
    let Some(machine) = machine() else { return };
    let folder = machine.dir.path().join("volume");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("kept"), "kept").unwrap();
    let mut spec = docker_spec(&[
        "sh",
        "-c",
        "ulimit -n; cat /proc/self/oom_score_adj; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /vol/kept; \
         touch /vol/new; touch /ro/x; touch /x; touch /tmp/t && echo tmp; echo end",
    ]);
    let process = spec.process_mut().as_mut().unwrap();
    let limit = oci_spec::runtime::PosixRlimitBuilder::default();
    let kind = oci_spec::runtime::PosixRlimitType::RlimitNofile;
    process.set_rlimits(Some(vec![limit.typ(kind).soft(512u64).hard(512u64).build().unwrap()]));
    process.set_oom_score_adj(Some(321));
    let sysctl = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())];
    spec.linux_mut().as_mut().unwrap().set_sysctl(Some(sysctl.into_iter().collect()));
    spec.set_root(Some(
        oci_spec::runtime::RootBuilder::default().path("rootfs").readonly(true).build().unwrap(),
    ));
    let mut mounts = spec.mounts().clone().unwrap();
    let bind = |target: &str, option: &str| {
        MountBuilder::default()
            .destination(target)
            .typ("bind")
            .source(&folder)
            .options(vec!["rbind".to_owned(), option.to_owned(), "rprivate".to_owned()])
            .build()
            .unwrap()
    };
    mounts.push(bind("/vol", "rw"));
    mounts.push(bind("/ro", "ro"));
    mounts.push(MountBuilder::default().destination("/tmp").typ("tmpfs").source("tmpfs").build().unwrap());
    spec.set_mounts(Some(mounts));
    let (_, text) = machine.run(machine.bundle_of(spec)).await;
    assert!(text.starts_with("512\n321\n0\nkept"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(text.contains("tmp\n") && text.contains("end\n"), "{text}");
    assert!(folder.join("new").exists());
}

#[tokio::test]
async fn a_small_limit_on_open_files_does_not_break_the_set_up() {
    let Some(machine) = machine() else { return };
    let mut spec = docker_spec(&["sh", "-c", "ulimit -n"]);
    let kind = oci_spec::runtime::PosixRlimitType::RlimitNofile;
    let limit =
        oci_spec::runtime::PosixRlimitBuilder::default().typ(kind).soft(4u64).hard(4u64).build().unwrap();
    spec.process_mut().as_mut().unwrap().set_rlimits(Some(vec![limit]));
    assert_eq!(machine.run(machine.bundle_of(spec)).await.1, "4\n");
}

#[tokio::test]
async fn shared_propagation_brings_nothing_of_the_container_to_the_host() {
    let Some(machine) = machine() else { return };
    let folder = machine.dir.path().join("shared");
    std::fs::create_dir(&folder).unwrap();
    for name in ["shared", "rslave", "rprivate"] {
        let mut spec = docker_spec(&["sh", "-c", "echo up; cat"]);
        spec.linux_mut().as_mut().unwrap().set_rootfs_propagation(Some(name.to_owned()));
        let mut mounts = spec.mounts().clone().unwrap();
        let options =
            vec!["rbind".to_owned(), if name == "shared" { "rshared".to_owned() } else { name.to_owned() }];
        mounts.push(
            MountBuilder::default()
                .destination("/shared")
                .typ("bind")
                .source(&folder)
                .options(options)
                .build()
                .unwrap(),
        );
        spec.set_mounts(Some(mounts));
        let mut bundle = machine.bundle_of(spec);
        bundle.stdio.open_stdin = true;
        let container = machine.runtime.create(bundle).await.unwrap();
        let mut attachment = container.attach(output()).await.unwrap();
        container.start().await.unwrap();
        read_until(&mut attachment, "up").await;
        let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!host.contains(machine.dir.path().to_str().unwrap()), "{name}: {host}");
        container.delete().await.unwrap();
    }
}

#[tokio::test]
async fn more_layers_than_a_page_of_options_holds() {
    let Some(machine) = machine() else { return };
    let mut bundle = machine.bundle(&["cat", "/layer-0", "/layer-149", "/every"]);
    let runtime::RootFs::Overlay { lower, .. } = &mut bundle.rootfs else { panic!() };
    let mut layers: Vec<_> = (0..150)
        .map(|n| {
            let layer =
                machine.dir.path().join(format!("a-layer-with-a-rather-long-name-as-digests-are:{n}"));
            std::fs::create_dir(&layer).unwrap();
            std::fs::write(layer.join(format!("layer-{n}")), format!("{n}\n")).unwrap();
            std::fs::write(layer.join("every"), format!("top is {n}\n")).unwrap();
            layer
        })
        .collect();
    layers.append(lower);
    *lower = layers;
    assert_eq!(machine.run(bundle).await.1, "0\n149\ntop is 0\n");
}
