//! Request bodies as Go's `encoding/json` reads them, because that is what clients were written against:
//! keys match case-insensitively, `null` leaves a field at its zero value, unknown keys are ignored.
//!
//! A [`serde::Deserializer`] over [`serde_json::Value`] does this for every request type at once: it sees the
//! names of a struct's fields and maps the incoming keys to them.

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::{Error, Result};

/// Reads `body` as `T`. An empty body reads as `null`, so `T` decides whether that is allowed.
pub fn from_slice<T: de::DeserializeOwned>(body: &[u8]) -> Result<T> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::invalid("invalid JSON: got EOF while reading request body"));
    }
    let mut stream = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let value = match stream.next() {
        Some(Ok(value)) => value,
        Some(Err(e)) if e.is_eof() => return Err(Error::invalid("invalid JSON: unexpected EOF")),
        Some(Err(e)) => return Err(Error::invalid(format!("invalid JSON: {e}"))),
        None => return Err(Error::invalid("invalid JSON: unexpected EOF")),
    };
    if !body[stream.byte_offset()..].iter().all(u8::is_ascii_whitespace) {
        return Err(Error::invalid("unexpected content after JSON"));
    }
    from_value(value)
}

/// Reads a parsed document as `T`.
pub fn from_value<T: de::DeserializeOwned>(value: Value) -> Result<T> {
    T::deserialize(Go(value)).map_err(|e| Error::invalid(format!("invalid JSON: {e}")))
}

struct Go(Value);

type DeError = serde_json::Error;

macro_rules! forward {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, DeError> {
            self.0.$method(visitor)
        }
    )* };
}

impl<'de> Deserializer<'de> for Go {
    type Error = DeError;

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, DeError> {
        match self.0 {
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, DeError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, DeError> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            Value::Null => visitor.visit_seq(Items(Vec::new().into_iter())),
            other => other.deserialize_seq(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, DeError> {
        match self.0 {
            Value::Object(map) => {
                visitor.visit_map(Entries { entries: map.into_iter(), fields: None, value: None })
            }
            other => other.deserialize_map(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, DeError> {
        match self.0 {
            Value::Object(map) => {
                visitor.visit_map(Entries { entries: map.into_iter(), fields: Some(fields), value: None })
            }
            other => other.deserialize_struct(name, fields, visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, DeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> std::result::Result<V::Value, DeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> std::result::Result<V::Value, DeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, DeError> {
        self.0.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, DeError> {
        self.0.deserialize_enum(name, variants, visitor)
    }
}

struct Items(std::vec::IntoIter<Value>);

impl<'de> SeqAccess<'de> for Items {
    type Error = DeError;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> std::result::Result<Option<T::Value>, DeError> {
        self.0.next().map(|v| seed.deserialize(Go(v))).transpose()
    }
}

struct Entries {
    entries: serde_json::map::IntoIter,
    /// The struct's fields, when a struct is read; `None` for a map, whose keys stay as they are.
    fields: Option<&'static [&'static str]>,
    value: Option<Value>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> std::result::Result<Option<K::Value>, DeError> {
        for (key, value) in self.entries.by_ref() {
            let key = match self.fields {
                // Go leaves a field alone when the key's value is null.
                Some(_) if value.is_null() => continue,
                Some(fields) => fields
                    .iter()
                    .find(|f| **f == key)
                    .or_else(|| fields.iter().find(|f| f.eq_ignore_ascii_case(&key)))
                    .map_or(key, |f| (*f).to_owned()),
                None => key,
            };
            self.value = Some(value);
            return seed.deserialize(key.into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> std::result::Result<V::Value, DeError> {
        seed.deserialize(Go(self.value.take().unwrap_or(Value::Null)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Deserialize, Debug, PartialEq, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Body {
        image: String,
        env: Vec<String>,
        labels: BTreeMap<String, String>,
        size: Option<(u16, u16)>,
        host_config: Option<Box<Body>>,
    }

    #[test]
    fn keys_match_as_go_matches_them() {
        let body: Body =
            from_slice(br#"{"image":"a","ENV":["x"],"Labels":{"Image":"kept"},"hostconfig":{"IMAGE":"b"}}"#)
                .unwrap();
        assert_eq!(body.image, "a");
        assert_eq!(body.env, ["x"]);
        assert_eq!(body.labels["Image"], "kept");
        assert_eq!(body.host_config.unwrap().image, "b");
    }

    #[test]
    fn null_leaves_the_zero_value() {
        let body: Body = from_slice(br#"{"Image":null,"Env":null,"Labels":null,"Size":[1,2]}"#).unwrap();
        assert_eq!(body, Body { size: Some((1, 2)), ..Body::default() });
    }

    #[test]
    fn what_is_not_json_says_so_in_dockers_words() {
        let words = |b: &[u8]| from_slice::<Body>(b).unwrap_err().message;
        assert_eq!(words(b"{\"Image\":"), "invalid JSON: unexpected EOF");
        assert_eq!(words(b"{} {}"), "unexpected content after JSON");
        assert!(words(b"{\"Image\":3}").starts_with("invalid JSON: "));
    }
}
