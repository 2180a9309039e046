//! The pause program as PID 1 of a container.

use std::fs;

use crate::{
    pod::{Pod, Wanted},
    with_each_runtime,
};

with_each_runtime!(holds_reaps_and_ends);

async fn holds_reaps_and_ends(pod: &Pod) {
    let program = pod.path("rootfs/pause");
    fs::copy(Pod::binary(), &program).unwrap();
    // The test's build needs the node's C library; a release's is static.
    let mut request = pod.request(
        "c",
        &Wanted {
            args: &["/pause"],
            ..Wanted::default()
        },
    );
    let config = request.bundle.join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    for directory in ["/lib", "/lib64", "/usr/lib"] {
        if fs::metadata(directory).is_ok() {
            json["mounts"].as_array_mut().unwrap().push(
                serde_json::json!({"destination": directory, "source": directory, "type": "bind", "options": ["rbind", "ro"]}),
            );
        }
    }
    fs::write(&config, json.to_string()).unwrap();
    request.log = None;
    pod.monitor.create(&request).await.unwrap();
    pod.start("c").await;
    let captured = pod
        .exec(
            "c",
            &[
                "/bin/sh",
                "-c",
                "(sleep 0.05 &); sleep 0.3; ps -o pid,stat,args",
            ],
            None,
        )
        .await
        .unwrap();
    let listing = String::from_utf8_lossy(&captured.stdout).into_owned();
    assert!(
        listing.contains("1 S") && listing.contains("/pause"),
        "{listing}"
    );
    assert!(!listing.contains(" Z "), "{listing}");
    pod.monitor.signal("c", 15).await.unwrap();
    assert_eq!(pod.exit("c").await.code, 0);
}
