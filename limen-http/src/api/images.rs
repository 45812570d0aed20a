//! Disk and ISO images. They are added at the command line for now: `limen image add`.

use limen_core::model::{Image, ImageId, Page};
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use uuid::Uuid;

use super::Tag;
use crate::answer::{Accepted, Json};
use crate::dto::PageQuery;
use crate::error::Result;
use crate::extract::{Caller, Plain, Query, Starter};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Images;

#[OpenApi]
impl Images {
    /// List images
    #[oai(path = "/api/images", method = "get", operation_id = "list_images", tag = "Tag::Images")]
    async fn list_images(&self, caller: Caller, query: Query<PageQuery>) -> Result<Json<Page<Image>>> {
        Json::of(&caller.limen().list_images(&caller, query.0.request()?).await?)
    }

    /// Read an image
    #[oai(path = "/api/images/:id", method = "get", operation_id = "get_image", tag = "Tag::Images")]
    async fn get_image(&self, caller: Caller, id: Path<Uuid>, _query: Plain) -> Result<Json<Image>> {
        Json::of(&caller.limen().get_image(&caller, ImageId(id.0)).await?)
    }

    /// Delete an image and its copies on hosts; refused while a linked disk needs it
    #[oai(path = "/api/images/:id", method = "delete", operation_id = "delete_image", tag = "Tag::Images")]
    async fn delete_image(&self, starter: Starter, id: Path<Uuid>, _query: Plain) -> Result<Accepted> {
        let operation = starter.limen().delete_image(&starter, ImageId(id.0)).await?;
        starter.answer(operation).await
    }
}
