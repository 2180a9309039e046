//! `proto/cri/v1/api.proto` says exactly what the table of CRI v1 says: same rows, no more and no fewer.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

const TABLE: &str = include_str!("cri-v1-fields.tsv");
const PACKAGE: &str = "runtime.v1";

fn pool() -> DescriptorPool {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let files = protox::compile(["cri/v1/api.proto"], [proto]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

fn type_of(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(message) if message.is_map_entry() => format!(
            "map<{},{}>",
            type_of(&message.map_entry_key_field()),
            type_of(&message.map_entry_value_field())
        ),
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(enumeration) => enumeration.name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn field_row(owner: &str, field: &FieldDescriptor) -> String {
    let label = if field.is_map() {
        "map"
    } else if field.is_list() {
        "repeated"
    } else {
        "single"
    };
    let options = field.field_descriptor_proto().options.as_ref();
    let deprecated = options.is_some_and(prost_types::FieldOptions::deprecated);
    let label = format!("{label}{}", if deprecated { " deprecated" } else { "" });
    assert!(
        field.containing_oneof().is_none(),
        "the table knows no oneof: {}",
        field.full_name()
    );
    format!(
        "field\t{owner}\t{}\t{label}\t{}\t{}",
        field.number(),
        type_of(field),
        field.name()
    )
}

fn enum_rows(enumeration: &EnumDescriptor, rows: &mut Vec<String>) {
    let owner = enumeration.full_name().strip_prefix("runtime.v1.").unwrap();
    for value in enumeration.values() {
        rows.push(format!(
            "enum\t{owner}\t{}\t-\t-\t{}",
            value.number(),
            value.name()
        ));
    }
}

fn message_rows(message: &MessageDescriptor, rows: &mut Vec<String>) {
    if message.is_map_entry() {
        return;
    }
    let owner = message.name();
    for enumeration in message.child_enums() {
        enum_rows(&enumeration, rows);
    }
    for child in message.child_messages() {
        assert!(
            child.is_map_entry(),
            "the table knows no nested message: {}",
            child.full_name()
        );
    }
    if message.fields().len() == 0 {
        rows.push(format!("message\t{owner}\t-\t-\t-\t(empty)"));
    }
    rows.extend(message.fields().map(|field| field_row(owner, &field)));
}

fn rows(pool: &DescriptorPool) -> Vec<String> {
    let mut rows = Vec::new();
    for service in pool.services() {
        assert_eq!(service.package_name(), PACKAGE);
        for method in service.methods() {
            assert!(!method.is_client_streaming());
            let streaming = if method.is_server_streaming() {
                "server-streaming"
            } else {
                "unary"
            };
            rows.push(format!(
                "rpc\t{}\t-\t{streaming}\t{} -> {}\t{}",
                service.name(),
                method.input().name(),
                method.output().name(),
                method.name()
            ));
        }
    }
    for file in pool.files() {
        assert_eq!(file.package_name(), PACKAGE);
        file.enums()
            .for_each(|enumeration| enum_rows(&enumeration, &mut rows));
        file.messages()
            .for_each(|message| message_rows(&message, &mut rows));
    }
    rows
}

#[test]
fn proto_and_table_agree() {
    let expected: BTreeSet<&str> = TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let rows = rows(&pool());
    let found: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
    assert_eq!(found.len(), rows.len(), "a row appears twice");
    let missing: Vec<_> = expected.difference(&found).collect();
    let surplus: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing in the proto: {missing:#?}\nnot in the table: {surplus:#?}"
    );
}

#[test]
fn all_43_calls_are_there() {
    let pool = pool();
    let count = |name: &str| pool.get_service_by_name(name).unwrap().methods().len();
    assert_eq!(count("runtime.v1.RuntimeService"), 37);
    assert_eq!(count("runtime.v1.ImageService"), 6);
}

#[test]
fn every_list_reply_has_the_shape_of_items() {
    // `api::list::Items` stands for these messages; build.rs names them.
    let pool = pool();
    for message in pool.all_messages().filter(|m| {
        (m.name().starts_with("List") || m.name().starts_with("Stream"))
            && m.name().ends_with("Response")
            && m.name() != "ListMetricDescriptorsResponse"
    }) {
        let fields: Vec<_> = message.fields().collect();
        assert_eq!(fields.len(), 1, "{}", message.name());
        assert!(
            fields[0].is_list() && fields[0].number() == 1,
            "{}",
            message.name()
        );
    }
}
