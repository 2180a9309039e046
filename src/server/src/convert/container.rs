//! A container as asked for.

use api::cri;
use spec::model::{
    ContainerConfig, ContainerMetadata, ContainerSecurity, Device, ImageSpec, Mount, Propagation,
};

use super::namespaces::mappings;
use super::pod::identity;
use super::resources::resources_if_any;
use super::security::container_security;
use super::{
    At, Refusal, absolute, absolute_if_any, each, enumeration, no_nul, present, relative_inside,
    required,
};

/// Options of a mount that a client may add.
const MOUNT_OPTIONS: [&str; 3] = ["noexec", "nodev", "nosuid"];

/// Converts and checks `config` of CreateContainer.
pub(crate) fn container_config(
    given: Option<cri::ContainerConfig>,
) -> Result<ContainerConfig, Refusal> {
    let at = At::root("config");
    let given = required(at, given)?;
    let image_at = at.field("image");
    let image = image_spec(required(image_at, given.image)?);
    present(image_at.field("image"), &image.image)?;
    let linux_at = at.field("linux");
    let linux = given.linux.unwrap_or_default();
    Ok(ContainerConfig {
        metadata: metadata(at.field("metadata"), given.metadata)?,
        image,
        command: each(at.field("command"), given.command, no_nul)?,
        args: each(at.field("args"), given.args, no_nul)?,
        working_dir: absolute_if_any(at.field("working_dir"), given.working_dir)?,
        envs: each(at.field("envs"), given.envs, environment)?,
        mounts: each(at.field("mounts"), given.mounts, mount)?,
        devices: each(at.field("devices"), given.devices, device)?,
        cdi_devices: each(at.field("CDI_devices"), given.cdi_devices, |at, device| {
            present(at.field("name"), &device.name)?;
            Ok(device.name)
        })?,
        labels: given.labels,
        annotations: given.annotations,
        log_path: relative_inside(at.field("log_path"), given.log_path)?,
        stdin: given.stdin,
        stdin_once: given.stdin_once,
        tty: given.tty,
        resources: resources_if_any(linux_at.field("resources"), linux.resources)?,
        security: match linux.security_context {
            Some(given) => container_security(linux_at.field("security_context"), given)?,
            None => ContainerSecurity::default(),
        },
        stop_signal: enumeration::<cri::Signal>(at.field("stop_signal"), given.stop_signal)?.into(),
    })
}

fn metadata(
    at: At<'_>,
    given: Option<cri::ContainerMetadata>,
) -> Result<ContainerMetadata, Refusal> {
    let given = required(at, given)?;
    Ok(ContainerMetadata {
        name: identity(at.field("name"), given.name)?,
        attempt: given.attempt,
    })
}

/// An image as the client names it.
pub(crate) fn image_spec(given: cri::ImageSpec) -> ImageSpec {
    ImageSpec {
        image: given.image,
        user_specified_image: given.user_specified_image,
        runtime_handler: given.runtime_handler,
        image_ref: given.image_ref,
        annotations: given.annotations,
    }
}

fn environment(at: At<'_>, given: cri::KeyValue) -> Result<(String, Vec<u8>), Refusal> {
    let key = at.field("key");
    present(key, &given.key)?;
    if given.key.contains('=') {
        return Err(key.refuse(format_args!("{:?} must not contain \"=\"", given.key)));
    }
    if given.value.contains(&0) {
        return Err(at.field("value").refuse("must not contain a NUL byte"));
    }
    Ok((no_nul(key, given.key)?, given.value))
}

fn mount(at: At<'_>, given: cri::Mount) -> Result<Mount, Refusal> {
    let propagation = match enumeration(at.field("propagation"), given.propagation)? {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    let recursive = at.field("recursive_read_only");
    if given.recursive_read_only && !given.readonly {
        return Err(recursive.refuse("needs readonly as well"));
    }
    if given.recursive_read_only && propagation != Propagation::Private {
        return Err(recursive.refuse("needs the propagation to be private"));
    }
    let host_path = at.field("host_path");
    let host_path = match &given.image {
        Some(image) => {
            present(at.field("image").field("image"), &image.image)?;
            if !given.host_path.is_empty() {
                return Err(host_path.refuse("must be empty for an image volume"));
            }
            if !given.readonly {
                return Err(at
                    .field("readonly")
                    .refuse("an image volume must be readonly"));
            }
            given.host_path
        }
        None => absolute(host_path, given.host_path)?,
    };
    let sub_path = at.field("image_sub_path");
    if given.image.is_none() && !given.image_sub_path.is_empty() {
        return Err(sub_path.refuse("is only valid together with image"));
    }
    Ok(Mount {
        container_path: absolute(at.field("container_path"), given.container_path)?,
        host_path,
        readonly: given.readonly,
        recursive_readonly: given.recursive_read_only,
        selinux_relabel: given.selinux_relabel,
        propagation,
        uid_mappings: mappings(at.field("uidMappings"), given.uid_mappings)?,
        gid_mappings: mappings(at.field("gidMappings"), given.gid_mappings)?,
        image: given.image.map(image_spec),
        image_sub_path: relative_inside(sub_path, given.image_sub_path)?,
        options: each(
            at.field("mount_options"),
            given.mount_options,
            |at, option| {
                if MOUNT_OPTIONS.contains(&option.as_str()) {
                    return Ok(option);
                }
                Err(at.refuse(format_args!(
                    "{option:?} is not one of {}",
                    MOUNT_OPTIONS.join(", ")
                )))
            },
        )?,
    })
}

fn device(at: At<'_>, given: cri::Device) -> Result<Device, Refusal> {
    let permissions = at.field("permissions");
    if given
        .permissions
        .chars()
        .any(|letter| !"rwm".contains(letter))
    {
        return Err(permissions.refuse(format_args!(
            "{:?} is not made of the letters r, w and m",
            given.permissions
        )));
    }
    Ok(Device {
        container_path: absolute(at.field("container_path"), given.container_path)?,
        host_path: absolute(at.field("host_path"), given.host_path)?,
        permissions: given.permissions,
    })
}
