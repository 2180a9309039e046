//! Every message that an older, independent binding of CRI v1 knows survives a trip through it.
//!
//! Each message is filled completely from our descriptor, then decoded and encoded again by our types and by
//! those of `k8s-cri`. What comes back must be what went in, less the fields that the other binding is too old for.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use prost::Message as _;
use prost::bytes::Bytes;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};

/// Fields younger than the other binding.
const YOUNGER: [&str; 11] = [
    "runtime.v1.Mount.image_sub_path",
    "runtime.v1.Mount.mount_options",
    "runtime.v1.LinuxPodSandboxStats.io",
    "runtime.v1.ImageSpec.image_ref",
    "runtime.v1.ContainerConfig.stop_signal",
    "runtime.v1.ContainerStatus.stop_signal",
    "runtime.v1.RuntimeFeatures.user_namespaces_host_network",
    "runtime.v1.RuntimeFeatures.mount_options",
    "runtime.v1.ContainerStats.io",
    "runtime.v1.CpuUsage.psi",
    "runtime.v1.MemoryUsage.psi",
];

type Trip = fn(&[u8]) -> Vec<u8>;

fn trip<M: prost::Message + Default>(wire: &[u8]) -> Vec<u8> {
    M::decode(wire).unwrap().encode_to_vec()
}

macro_rules! messages {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), trip::<pintle_api::cri::$name> as Trip, trip::<k8s_cri::v1::$name> as Trip)),*]
    };
}

/// Name, our trip, their trip.
const MESSAGES: [(&str, Trip, Trip); 153] = messages![
    AttachRequest,
    AttachResponse,
    AuthConfig,
    Capability,
    CdiDevice,
    CheckpointContainerRequest,
    CheckpointContainerResponse,
    Container,
    ContainerAttributes,
    ContainerConfig,
    ContainerEventResponse,
    ContainerFilter,
    ContainerMetadata,
    ContainerMetrics,
    ContainerResources,
    ContainerStateValue,
    ContainerStats,
    ContainerStatsFilter,
    ContainerStatsRequest,
    ContainerStatsResponse,
    ContainerStatus,
    ContainerStatusRequest,
    ContainerStatusResponse,
    ContainerUser,
    CpuUsage,
    CreateContainerRequest,
    CreateContainerResponse,
    Device,
    DnsConfig,
    ExecRequest,
    ExecResponse,
    ExecSyncRequest,
    ExecSyncResponse,
    FilesystemIdentifier,
    FilesystemUsage,
    GetEventsRequest,
    HugepageLimit,
    IdMapping,
    Image,
    ImageFilter,
    ImageFsInfoRequest,
    ImageFsInfoResponse,
    ImageSpec,
    ImageStatusRequest,
    ImageStatusResponse,
    Int64Value,
    KeyValue,
    LinuxContainerConfig,
    LinuxContainerResources,
    LinuxContainerSecurityContext,
    LinuxContainerUser,
    LinuxPodSandboxConfig,
    LinuxPodSandboxStats,
    LinuxPodSandboxStatus,
    LinuxRuntimeConfiguration,
    LinuxSandboxSecurityContext,
    ListContainerStatsRequest,
    ListContainerStatsResponse,
    ListContainersRequest,
    ListContainersResponse,
    ListImagesRequest,
    ListImagesResponse,
    ListMetricDescriptorsRequest,
    ListMetricDescriptorsResponse,
    ListPodSandboxMetricsRequest,
    ListPodSandboxMetricsResponse,
    ListPodSandboxRequest,
    ListPodSandboxResponse,
    ListPodSandboxStatsRequest,
    ListPodSandboxStatsResponse,
    MemoryUsage,
    Metric,
    MetricDescriptor,
    Mount,
    Namespace,
    NamespaceOption,
    NetworkConfig,
    NetworkInterfaceUsage,
    NetworkUsage,
    PodIp,
    PodSandbox,
    PodSandboxAttributes,
    PodSandboxConfig,
    PodSandboxFilter,
    PodSandboxMetadata,
    PodSandboxMetrics,
    PodSandboxNetworkStatus,
    PodSandboxStateValue,
    PodSandboxStats,
    PodSandboxStatsFilter,
    PodSandboxStatsRequest,
    PodSandboxStatsResponse,
    PodSandboxStatus,
    PodSandboxStatusRequest,
    PodSandboxStatusResponse,
    PortForwardRequest,
    PortForwardResponse,
    PortMapping,
    ProcessUsage,
    PullImageRequest,
    PullImageResponse,
    RemoveContainerRequest,
    RemoveContainerResponse,
    RemoveImageRequest,
    RemoveImageResponse,
    RemovePodSandboxRequest,
    RemovePodSandboxResponse,
    ReopenContainerLogRequest,
    ReopenContainerLogResponse,
    RunPodSandboxRequest,
    RunPodSandboxResponse,
    RuntimeCondition,
    RuntimeConfig,
    RuntimeConfigRequest,
    RuntimeConfigResponse,
    RuntimeFeatures,
    RuntimeHandler,
    RuntimeHandlerFeatures,
    RuntimeStatus,
    SeLinuxOption,
    SecurityProfile,
    StartContainerRequest,
    StartContainerResponse,
    StatusRequest,
    StatusResponse,
    StopContainerRequest,
    StopContainerResponse,
    StopPodSandboxRequest,
    StopPodSandboxResponse,
    SwapUsage,
    UInt64Value,
    UpdateContainerResourcesRequest,
    UpdateContainerResourcesResponse,
    UpdateRuntimeConfigRequest,
    UpdateRuntimeConfigResponse,
    UserNamespace,
    VersionRequest,
    VersionResponse,
    WindowsContainerConfig,
    WindowsContainerResources,
    WindowsContainerSecurityContext,
    WindowsContainerStats,
    WindowsCpuGroupAffinity,
    WindowsCpuUsage,
    WindowsFilesystemUsage,
    WindowsMemoryUsage,
    WindowsNamespaceOption,
    WindowsNetworkInterfaceUsage,
    WindowsNetworkUsage,
    WindowsPodSandboxConfig,
    WindowsPodSandboxStats,
    WindowsProcessUsage,
    WindowsSandboxSecurityContext
];

fn scalar(field: &FieldDescriptor, seed: u8) -> Value {
    match field.kind() {
        Kind::Bool => Value::Bool(true),
        Kind::Int32 => Value::I32(-i32::from(seed) - 70_000),
        Kind::Int64 => Value::I64(-i64::from(seed) - (1 << 40)),
        Kind::Uint32 => Value::U32(u32::from(seed) + 70_000),
        Kind::Uint64 => Value::U64(u64::from(seed) + (1 << 40)),
        Kind::Double => Value::F64(f64::from(seed) + 0.5),
        Kind::String => Value::String(format!("{}-{seed}-ü", field.name())),
        Kind::Bytes => Value::Bytes(Bytes::from(format!("bytes-{seed}"))),
        Kind::Enum(enumeration) => {
            Value::EnumNumber(enumeration.values().map(|v| v.number()).max().unwrap())
        }
        Kind::Message(message) => Value::Message(filled(&message)),
        other => panic!("CRI does not use {other:?}"),
    }
}

fn filled(descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let value = if field.is_map() {
            let Value::Message(entry) = scalar(&field, 1) else {
                unreachable!()
            };
            let key = entry
                .get_field_by_number(1)
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned();
            let value = entry.get_field_by_number(2).unwrap().into_owned();
            Value::Map([(MapKey::String(key), value)].into())
        } else if field.is_list() {
            Value::List(vec![scalar(&field, 1), scalar(&field, 2)])
        } else {
            scalar(&field, 3)
        };
        message.set_field(&field, value);
    }
    message
}

fn without_younger(mut message: DynamicMessage) -> DynamicMessage {
    for field in message.descriptor().fields() {
        if YOUNGER.contains(&field.full_name()) {
            message.clear_field(&field);
        } else if message.has_field(&field) {
            let value = match message.get_field(&field).into_owned() {
                Value::Message(inner) => Value::Message(without_younger(inner)),
                Value::List(items) => Value::List(
                    items
                        .into_iter()
                        .map(|item| match item {
                            Value::Message(inner) => Value::Message(without_younger(inner)),
                            scalar => scalar,
                        })
                        .collect(),
                ),
                other => other,
            };
            message.set_field(&field, value);
        }
    }
    message
}

#[test]
fn messages_survive_both_bindings() {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let files = protox::compile(["cri/v1/api.proto"], [proto]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
    for (name, ours, theirs) in MESSAGES {
        let descriptor = pool
            .all_messages()
            .find(|m| m.parent_message().is_none() && m.name().eq_ignore_ascii_case(name))
            .unwrap();
        let original = filled(&descriptor);
        let wire = original.encode_to_vec();
        let back = DynamicMessage::decode(descriptor.clone(), &*ours(&wire)).unwrap();
        assert_eq!(back, original, "{name} through our types");
        let back = DynamicMessage::decode(descriptor, &*theirs(&wire)).unwrap();
        assert_eq!(back, without_younger(original), "{name} through k8s-cri");
    }
}
