//! The query of a request, and the part of a list that it asks for.

use limen_core::model::PageRequest;
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaParamIn, MetaSchemaRef, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, types};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::bad_field;
use crate::dto::{NoQuery, PageQuery};
use crate::error::Result;

/// The query, read by serde alone: unknown and repeated parameters are refused.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<'a, T: types::Type + DeserializeOwned + Default + Send> ApiExtractor<'a> for Query<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    /// The document lists the fields of this object as parameters of their own (`openapi.rs`).
    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(T::schema_ref())
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        Ok(Self(parse_query(request.uri().query())?))
    }
}

pub(crate) fn parse_query<T: DeserializeOwned + Default>(query: Option<&str>) -> Result<T> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(T::default()) };
    // The path is asked for only when there is something to name.
    if let Ok(value) = T::deserialize(serde_urlencoded::Deserializer::new(form_pairs(query))) {
        return Ok(value);
    }
    let reader = serde_urlencoded::Deserializer::new(form_pairs(query));
    serde_path_to_error::deserialize(reader)
        .map_err(|error| bad_field(error.path().to_string().replace('.', ""), &error.inner().to_string()))
}

fn form_pairs(query: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.as_bytes())
}

/// No parameters: for routes that know none.
pub(crate) type Plain = Query<NoQuery>;

/// The part of a list that the parameters ask for.
pub(crate) fn page(limit: Option<u32>, cursor: Option<Uuid>) -> Result<PageRequest> {
    let page = PageRequest::first(limit.unwrap_or(100))?;
    Ok(match cursor {
        Some(cursor) => page.with_cursor(&cursor.to_string())?,
        None => page,
    })
}

impl PageQuery {
    pub(crate) fn request(&self) -> Result<PageRequest> {
        page(self.limit, self.cursor)
    }
}
