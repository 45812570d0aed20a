//! Who calls where a token may be brought, and need not be.

use super::*;

/// Anybody, or somebody: a token that is brought must be good.
#[derive(Debug)]
pub(crate) struct Visitor {
    arrival: Arrival,
    context: Context,
    gzip: bool,
    json: bool,
}

impl Visitor {
    pub(crate) fn app(&self) -> &App {
        &self.arrival.app
    }

    pub(crate) fn limen(&self) -> &Limen {
        &self.arrival.app.limen
    }

    /// Whether the client takes gzip (RFC 9110, 12.5.3).
    pub(crate) fn accepts_gzip(&self) -> bool {
        self.gzip
    }

    /// Whether the client asks for JSON by its name: `*/*` does not.
    pub(crate) fn accepts_json(&self) -> bool {
        self.json
    }
}

impl Deref for Visitor {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl<'a> ApiExtractor<'a> for Visitor {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_security(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SECURITY_SCHEME]
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let json = accepts(request.headers(), header::ACCEPT, "application/json");
        if request.headers().contains_key(header::AUTHORIZATION) {
            let Caller { arrival, context, gzip } = Caller::from_request(request, body, options).await?;
            return Ok(Self { arrival, context, gzip, json });
        }
        let Anybody { arrival, context } = Anybody::from_request(request, body, options).await?;
        Ok(Self { arrival, context, gzip: accepts_gzip(request.headers()), json })
    }
}
