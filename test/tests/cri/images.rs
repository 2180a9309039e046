//! Images: pulling by every kind of name, what is told of them, removal, and what layers become on disk.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use api::cri;
use pintle_test::{
    certificates::Authority,
    cri::{image_spec, refused, request_within},
    faults::{FaultyRegistry, Reply},
    images::{Image, Layer, Packing},
    node::{self, Setup},
    places, registry, settle, world,
};
use serde_json::json;
use tonic::Code;

/// A port for scripted registries.
const PORT: u16 = 5001;

fn with_faulty() -> Setup {
    Setup::default()
        .config(json!({ "image": { "registries": { "127.0.0.1:5001": { "plain_http": true } } } }))
}

#[test]
fn an_image_is_pulled_by_tag_without_tag_and_by_digest() {
    world!(async |node| {
        let cri = node.cri();
        let id = cri.pull(&registry::name("busybox:1")).await?;
        ensure!(id.starts_with("sha256:"), "id {id}");
        let image = cri
            .image(&registry::name("busybox:1"))
            .await?
            .context("not there")?;
        ensure!(image.id == id, "another id: {}", image.id);
        ensure!(
            image.repo_tags == [registry::name("busybox:1")],
            "{:?}",
            image.repo_tags
        );
        ensure!(image.size > 0, "no size");
        let digest = image.repo_digests.first().context("no digest")?.clone();
        ensure!(
            digest.starts_with(&registry::name("busybox@sha256:")),
            "{digest}"
        );

        // No tag means latest.
        ensure!(
            cri.pull(&registry::name("busybox")).await? == id,
            "latest is another image"
        );
        let image = cri.image(&id).await?.context("not there by id")?;
        let mut tags = image.repo_tags.clone();
        tags.sort();
        ensure!(
            tags == [
                registry::name("busybox:1"),
                registry::name("busybox:latest")
            ],
            "{tags:?}"
        );

        for name in [
            &digest,
            &image.repo_tags[0],
            &id,
            &id["sha256:".len()..].to_owned(),
        ] {
            let found = cri
                .image(name)
                .await?
                .with_context(|| format!("not there as {name}"))?;
            ensure!(found == image, "{name} is another one");
        }

        cri.remove_image(&id).await?;
        ensure!(
            cri.image(&digest).await?.is_none(),
            "there after its removal"
        );
        ensure!(cri.pull(&digest).await? == id, "another image by digest");
        let image = cri.image(&id).await?.context("not there")?;
        ensure!(
            image.repo_tags.is_empty(),
            "pulled by digest, but has tags {:?}",
            image.repo_tags
        );
        ensure!(image.repo_digests == [digest], "{:?}", image.repo_digests);
        Ok(())
    });
}

#[test]
fn one_image_with_many_names_is_one_image_and_goes_with_all_of_them() {
    world!(async |node| {
        let cri = node.cri();
        let mut ids = Vec::new();
        for name in ["tags:1", "tags:2", "tags:3", "same:latest"] {
            ids.push(cri.pull(&registry::name(name)).await?);
        }
        ids.dedup();
        ensure!(ids.len() == 1, "{ids:?}");
        let images = cri.all_images().await?;
        ensure!(images.len() == 1, "{} images", images.len());
        ensure!(images[0].repo_tags.len() == 4, "{:?}", images[0].repo_tags);
        ensure!(
            images[0].repo_digests.len() == 2,
            "{:?}",
            images[0].repo_digests
        );
        cri.remove_image(&registry::name("tags:2")).await?;
        ensure!(cri.all_images().await?.is_empty(), "some are left");
        // Once more is no error.
        cri.remove_image(&registry::name("tags:2")).await?;
        cri.remove_image(&ids[0]).await?;
        Ok(())
    });
}

#[test]
fn parallel_removals_all_succeed() {
    world!(async |node| {
        let id = node.cri().pull(&registry::name("busybox:latest")).await?;
        let mut group = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let (cri, id) = (node.cri(), id.clone());
            group.spawn(async move { cri.remove_image(&id).await });
        }
        while let Some(result) = group.join_next().await {
            result??;
        }
        ensure!(node.cri().image(&id).await?.is_none(), "it is still there");
        Ok(())
    });
}

#[test]
fn whoever_is_out_of_time_is_told_so_and_the_image_still_comes() {
    world!(with_faulty(), async |node| {
        let slow = FaultyRegistry::listen(PORT).await?;
        let image = Image::new(&[noise(300_000)], Packing::Gzip, &json!({}))?;
        slow.serve("slow", "latest", &image);
        let path = format!("/v2/slow/blobs/{}", image.layers[0].digest);
        slow.reply(
            &path,
            Reply::new(200, image.layers[0].data.clone()).pause(Duration::from_millis(100)),
        );
        let message = cri::PullImageRequest {
            image: Some(image_spec(&slow.name("slow"))),
            ..cri::PullImageRequest::default()
        };
        let impatient = request_within(message, Duration::from_millis(1));
        let answer = node.cri().images.clone().pull_image(impatient).await;
        // The client's own clock may be faster than the answer.
        let code = answer.err().map(|status| status.code());
        ensure!(
            matches!(code, Some(Code::DeadlineExceeded | Code::Cancelled)),
            "{code:?}"
        );
        ensure!(
            node.cri().pull(&slow.name("slow")).await? == image.id(),
            "another image"
        );
        Ok(())
    });
}

#[test]
fn many_who_ask_at_once_cause_one_pull() {
    world!(with_faulty(), async |node| {
        let slow = FaultyRegistry::listen(PORT).await?;
        let image = Image::new(&[noise(200_000)], Packing::Gzip, &json!({}))?;
        slow.serve("shared", "latest", &image);
        let path = format!("/v2/shared/blobs/{}", image.layers[0].digest);
        slow.reply(
            &path,
            Reply::new(200, image.layers[0].data.clone()).pause(Duration::from_millis(200)),
        );
        let mut group = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (cri, name) = (node.cri(), slow.name("shared"));
            group.spawn(async move { cri.pull(&name).await });
        }
        while let Some(result) = group.join_next().await {
            ensure!(result?? == image.id(), "another image");
        }
        let downloads = slow
            .requests()
            .into_iter()
            .filter(|request| request.starts_with(&format!("GET {path}")))
            .count();
        ensure!(downloads == 1, "the layer was downloaded {downloads} times");
        Ok(())
    });
}

#[test]
fn layers_that_are_there_are_not_downloaded_again() {
    world!(with_faulty(), async |node| {
        let faulty = FaultyRegistry::listen(PORT).await?;
        let shared = noise(100_000);
        let below = Image::new(std::slice::from_ref(&shared), Packing::Gzip, &json!({}))?;
        let top = Layer::new().file("top", 0o644, b"top")?.tar()?;
        let above = Image::new(&[shared, top], Packing::Gzip, &json!({}))?;
        faulty.serve("below", "latest", &below);
        faulty.serve("above", "latest", &above);
        node.cri().pull(&faulty.name("below")).await?;
        node.cri().pull(&faulty.name("above")).await?;
        let again = format!("GET /v2/above/blobs/{}", below.layers[0].digest);
        ensure!(
            !faulty.requests().contains(&again),
            "{:?}",
            faulty.requests()
        );
        // The one below goes; the layer that both share stays.
        node.cri().remove_image(&faulty.name("below")).await?;
        let image = node.cri().image(&faulty.name("above")).await?;
        ensure!(image.is_some(), "the other image went too");
        Ok(())
    });
}

#[test]
fn every_packing_and_both_manifest_formats_give_the_same_files() {
    world!(async |node| {
        let pod = node.run_pod("trees").await?;
        let cri = node.cri();
        let mut all = Vec::new();
        for tag in ["latest", "zstd", "tar", "docker"] {
            let image = format!("tree:{tag}");
            node.image(&image).await?;
            let config = node::container_of(&image, tag, &["sh", "-c", node::SLEEP]);
            let id = node.start_container(&pod, &config).await?;
            let listing = "cd /tree && find . | sort | xargs stat -c '%n %F %a %u:%g %h %t,%T' && \
                cat removed replaced kept hidden/* becomes-file owned setuid attribute long-* 2>&1; readlink link; readlink absolute";
            let answer = cri.exec(&id, &["sh", "-c", listing], 30).await?;
            all.push(String::from_utf8(answer.stdout)?);
        }
        let tree = &all[0];
        for expected in [
            "./replaced regular file 644 0:0",
            "./kept regular file 640 0:0 2",
            "./hard regular file 640 0:0 2",
            "./hidden/upper ",
            "./becomes-file regular file",
            "./link symbolic link",
            "./owned regular file 600 1000:50",
            "./setuid regular file 4755",
            "./sticky directory 3775",
            "./null character special file 666 0:0 1 1,3",
            "upper\nkept\nupper\nupper\nowned\n",
            "can't open 'removed'",
            "kept\n/tree/kept\n",
        ] {
            ensure!(tree.contains(expected), "no {expected:?} in\n{tree}");
        }
        for absent in [
            "./removed",
            "./gone",
            "./hidden/lower",
            ".wh.",
            "becomes-file/lower",
        ] {
            ensure!(!tree.contains(absent), "{absent} in\n{tree}");
        }
        for (tag, other) in ["zstd", "tar", "docker"].iter().zip(&all[1..]) {
            ensure!(other == tree, "{tag} differs:\n{other}\nfrom\n{tree}");
        }
        Ok(())
    });
}

#[test]
fn extended_attributes_reach_the_container() {
    world!(async |node| {
        let pod = node.run_pod("attributes").await?;
        node.image("tree:latest").await?;
        let config = node::container_of("tree:latest", "c", &["sh", "-c", node::SLEEP]);
        let id = node.start_container(&pod, &config).await?;
        let file = format!("{}/containers/{id}/rootfs/tree/attribute", places::RUN);
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&file, "user.colour", &mut value[..])?;
        ensure!(&value[..length] == b"blue", "{value:?}");
        Ok(())
    });
}

#[test]
fn of_an_index_this_machines_image_is_taken() {
    world!(async |node| {
        let pod = node.run_pod("multi").await?;
        node.image("multi:latest").await?;
        let config = node::container_of("multi:latest", "c", &["cat", "/architecture"]);
        let id = node.start_container(&pod, &config).await?;
        node.exited(&id).await?;
        let said = pod.output("c")?;
        ensure!(said.trim() == pintle_test::images::architecture(), "{said}");
        // The digest that people see is the index's.
        let image = node
            .cri()
            .image(&registry::name("multi:latest"))
            .await?
            .context("not there")?;
        let digest = image.repo_digests.first().context("no digest")?.clone();
        ensure!(
            node.cri().pull(&digest).await? == image.id,
            "the digest names another image"
        );
        Ok(())
    });
}

#[test]
fn the_user_of_an_image_is_told_as_a_number_or_as_a_name() {
    world!(async |node| {
        for (image, uid, name) in [
            ("users/uid:latest", Some(1002), ""),
            ("users/username:latest", None, "www-data"),
            ("users/uid-gid:latest", Some(1003), ""),
            ("users/username-gid:latest", None, "www-data"),
        ] {
            node.image(image).await?;
            let told = node
                .cri()
                .image(&registry::name(image))
                .await?
                .context("not there")?;
            let value = told.uid.map(|uid| uid.value);
            ensure!(
                value == uid && told.username == name,
                "{image}: {value:?} {:?}",
                told.username
            );
        }
        Ok(())
    });
}

#[test]
fn the_disk_usage_of_images_rises_with_a_pull_and_falls_with_a_removal() {
    world!(async |node| {
        let cri = node.cri();
        let used = async || -> Result<(u64, u64)> {
            let info = node.cri().image_fs().await?;
            let images = info
                .image_filesystems
                .first()
                .context("no image filesystem")?;
            ensure!(
                !info.container_filesystems.is_empty(),
                "no container filesystem"
            );
            ensure!(images.timestamp > 0, "no time");
            let place = images.fs_id.as_ref().context("no mount point")?;
            ensure!(
                Path::new(&place.mountpoint).is_dir(),
                "{}",
                place.mountpoint
            );
            Ok((
                images.used_bytes.context("no bytes")?.value,
                images.inodes_used.context("no inodes")?.value,
            ))
        };
        let before = used().await?;
        node.image("busybox:latest").await?;
        let with = used().await?;
        // busybox unpacked is about two megabytes in two dozen inodes.
        ensure!(
            with.0 > before.0 + 1_000_000 && with.1 > before.1 + 10,
            "{before:?} {with:?}"
        );
        cri.remove_image(&registry::name("busybox:latest")).await?;
        settle::until_true("the space is given back", async || {
            Ok(used().await? == before)
        })
        .await
    });
}

#[test]
fn an_image_in_use_can_be_removed_and_its_container_goes_on() {
    world!(async |node| {
        let (_, id) = node.sleeper("user").await?;
        let cri = node.cri();
        cri.remove_image(&registry::name("busybox:latest")).await?;
        ensure!(cri.all_images().await?.is_empty(), "it is still listed");
        ensure!(
            cri.sh(&id, "ls /bin | wc -l")
                .await?
                .trim()
                .parse::<u32>()?
                > 100,
            "its files are gone"
        );
        Ok(())
    });
}

#[test]
fn credentials_are_used_and_refusals_of_them_are_quick_and_clear() {
    world!(with_faulty(), async |node| {
        let guarded = FaultyRegistry::listen(PORT).await?;
        let image = Image::new(&[noise(1000)], Packing::Gzip, &json!({}))?;
        guarded.serve("private", "latest", &image);
        let path = "/v2/private/manifests/latest";
        let challenge = Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"test\"");
        guarded.reply(path, challenge.clone());
        let anonymous = node
            .cri()
            .pull(&guarded.name("private"))
            .await
            .err()
            .context("let in")?;
        ensure!(!anonymous.message().is_empty(), "refused without a word");

        let granted = Reply::new(200, image.manifest.data.clone())
            .header("Content-Type", &image.manifest.media_type)
            .header("Docker-Content-Digest", &image.manifest.digest);
        guarded.replies(path, vec![challenge, granted]);
        let auth = cri::AuthConfig {
            username: "somebody".to_owned(),
            password: "very-secret-word".to_owned(),
            ..cri::AuthConfig::default()
        };
        let id = node
            .cri()
            .pull_as(&guarded.name("private"), Some(auth))
            .await?;
        ensure!(id == image.id(), "another image");
        ensure!(
            guarded
                .requests()
                .iter()
                .any(|request| request.ends_with("(authorized)")),
            "no credentials were sent: {:?}",
            guarded.requests()
        );
        let log = node.server_log();
        ensure!(
            !log.contains("very-secret-word"),
            "the password is in the log"
        );
        Ok(())
    });
}

#[test]
fn a_registry_that_demands_client_certificates_is_shown_the_one_it_takes() {
    const HOST: &str = "127.0.0.1:5002";
    world!(async |node| {
        let authority = |name: &str| Authority::new(&Path::new(places::SCRATCH).join(name), name);
        let (servers, nodes, teams) = (
            authority("servers")?,
            authority("nodes")?,
            authority("teams")?,
        );
        let server = servers.certify("registry")?;
        let _registry = registry::Registry::start_for_clients(HOST, &server, &nodes).await?;
        let name = format!("{HOST}/busybox:1");
        let folder = Path::new(places::CERTS).join(HOST);
        world::make_dirs(&folder)?;
        let put = |from: &Path, name: &str| std::fs::copy(from, folder.join(name));
        let refusal = async || refused(node.cri().pull(&name).await, Code::Unknown);

        let message = refusal().await?;
        ensure!(message.contains("not trusted"), "{message}");
        put(&servers.certificate(), "ca.crt")?;
        // The registry's alert comes with the end of the connection or not at all; either way it is told what it wants.
        let message = refusal().await?;
        ensure!(
            message.contains(HOST) && message.contains("client certificate"),
            "{message}"
        );
        // One that another authority has certified is as good as none.
        let other = teams.certify("a")?;
        put(&other.certificate, "a.cert")?;
        put(&other.key, "a.key")?;
        let message = refusal().await?;
        ensure!(
            message.contains(HOST) && message.contains("client certificate"),
            "{message}"
        );
        // It is the first all the same, and not the one that is shown.
        let own = nodes.certify("b")?;
        put(&own.certificate, "b.cert")?;
        put(&own.key, "b.key")?;
        let id = node.cri().pull(&name).await?;
        ensure!(node.cri().image(&id).await?.is_some(), "not there");
        Ok(())
    });
}

#[test]
fn a_namespace_pulls_with_the_credentials_of_its_file_and_no_other() {
    // `user` and `secret`.
    const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
    const HOST: &str = "127.0.0.1:5002";
    const AUTH: &str = "dXNlcjpzZWNyZXQ=";
    const WRONG_AUTH: &str = "dXNlcjp3cm9uZw==";
    let dir = Path::new(places::SCRATCH).join("auth.d");
    let node_file = Path::new(places::SCRATCH).join("auth.json");
    let setup = Setup::default().config(json!({ "image": {
        "registries": { HOST: { "plain_http": true } },
        "auth_file": node_file,
        "namespaced_auth_dir": dir,
    } }));
    world!(setup, async |node| {
        let _registry = registry::Registry::start_guarded(HOST, HTPASSWD).await?;
        let entry = |key: &str, auth: &str| json!({ "auths": { key: { "auth": auth } } });
        world::make_dirs(&dir)?;
        let write = |name: &str, text: &[u8]| {
            let path = dir.join(name);
            world::write(&path, text)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
            anyhow::Ok(())
        };
        write("may.json", entry(HOST, AUTH).to_string().as_bytes())?;
        write(
            "elsewhere.json",
            entry("r.example", AUTH).to_string().as_bytes(),
        )?;
        let broken = format!("{{\n \"auths\": {{ \"{HOST}\": \"{AUTH}\" }}\n}}");
        write("broken.json", broken.as_bytes())?;
        let image = format!("{HOST}/busybox:1");
        let pull = async |auth, namespace| node.cri().pull_for(&image, auth, namespace).await;

        let id = pull(None, Some("may")).await?;
        ensure!(node.cri().image(&id).await?.is_some(), "not there");
        // That the image is here by now lets nobody in.
        for namespace in [
            None,
            Some("may-not"),
            Some("elsewhere"),
            Some("../auth.d/may"),
        ] {
            let message = refused(pull(None, namespace).await, Code::Unauthenticated)?;
            ensure!(
                message.contains("no credentials"),
                "{namespace:?}: {message}"
            );
        }
        let message = refused(pull(None, Some("broken")).await, Code::FailedPrecondition)?;
        ensure!(
            message.contains("broken.json, line 2") && !message.contains(AUTH),
            "{message}"
        );
        // What the request brings counts, though it is wrong.
        let wrong = cri::AuthConfig {
            auth: WRONG_AUTH.to_owned(),
            ..cri::AuthConfig::default()
        };
        refused(pull(Some(wrong), Some("may")).await, Code::Unauthenticated)?;

        // The node's own file is for everybody who has nothing else.
        world::write(&node_file, entry(HOST, AUTH).to_string())?;
        ensure!(pull(None, Some("may-not")).await? == id, "another image");
        write("may.json", entry(HOST, WRONG_AUTH).to_string().as_bytes())?;
        let message = refused(pull(None, Some("may")).await, Code::Unauthenticated)?;
        ensure!(message.contains("may.json"), "{message}");

        let log = node.server_log();
        for secret in [AUTH, WRONG_AUTH] {
            ensure!(!log.contains(secret), "credentials are in the log");
        }
        let warnings = log.matches("mend it with `chown root:root`").count();
        ensure!(warnings == 1, "{warnings} warnings of a readable file");
        Ok(())
    });
}

#[test]
fn bearer_tokens_are_fetched_where_the_registry_says() {
    world!(with_faulty(), async |node| {
        let guarded = FaultyRegistry::listen(PORT).await?;
        let image = Image::new(&[noise(1000)], Packing::Gzip, &json!({}))?;
        guarded.serve("private", "latest", &image);
        let realm = format!("http://127.0.0.1:{PORT}/token");
        let challenge = Reply::new(401, "").header(
            "WWW-Authenticate",
            &format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:private:pull\""),
        );
        let path = "/v2/private/manifests/latest";
        let granted = Reply::new(200, image.manifest.data.clone())
            .header("Content-Type", &image.manifest.media_type)
            .header("Docker-Content-Digest", &image.manifest.digest);
        guarded.replies(path, vec![challenge, granted]);
        guarded.reply(
            "/token",
            Reply::new(200, r#"{"token":"t0ken","expires_in":300}"#)
                .header("Content-Type", "application/json"),
        );
        ensure!(
            node.cri().pull(&guarded.name("private")).await? == image.id(),
            "another image"
        );
        let asked = guarded
            .requests()
            .iter()
            .any(|request| request.starts_with("GET /token?"));
        ensure!(asked, "{:?}", guarded.requests());
        Ok(())
    });
}

#[test]
fn an_unknown_image_is_absent_in_status_and_refused_in_pull() {
    world!(async |node| {
        let cri = node.cri();
        ensure!(
            cri.image(&registry::name("nothing:latest"))
                .await?
                .is_none(),
            "it is there"
        );
        let message = refused(
            cri.pull(&registry::name("nothing:latest")).await,
            Code::NotFound,
        )?;
        ensure!(message.contains("nothing"), "{message}");
        refused(cri.pull("UPPER/case::wrong").await, Code::InvalidArgument)?;
        refused(cri.pull("").await, Code::InvalidArgument)?;
        Ok(())
    });
}

/// A layer that does not pack well.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let data: Vec<u8> = std::iter::repeat_with(|| {
        // xorshift: good enough for what only has to be incompressible.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(bytes)
    .collect();
    Layer::new()
        .file("noise", 0o644, &data)
        .and_then(Layer::tar)
        .unwrap_or_default()
}
