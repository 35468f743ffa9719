"""The application: stac-fastapi's routes and extensions, our datasets behind them. Read-only."""

import logging
import os
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Literal

# Its default settings, which are not ours, are warned of when it is imported.
logging.getLogger("stac_fastapi.types.config").setLevel(logging.ERROR)

from brotli_asgi import BrotliMiddleware  # noqa: E402
from fastapi import FastAPI, Request  # noqa: E402
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402
from stac_fastapi.api.app import StacApi  # noqa: E402
from stac_fastapi.api.middleware import ProxyHeaderMiddleware  # noqa: E402
from stac_fastapi.api.models import (  # noqa: E402
    ItemCollectionUri,
    create_get_request_model,
    create_post_request_model,
)
from stac_fastapi.extensions.aggregation import AggregationExtension  # noqa: E402
from stac_fastapi.extensions.aggregation.request import (  # noqa: E402
    AggregationExtensionGetRequest,
    AggregationExtensionPostRequest,
)
from stac_fastapi.extensions.collection_search import CollectionSearchExtension  # noqa: E402
from stac_fastapi.extensions.fields import FieldsConformanceClasses, FieldsExtension  # noqa: E402
from stac_fastapi.extensions.fields.request import PostFieldsExtension  # noqa: E402
from stac_fastapi.extensions.filter import FilterConformanceClasses, FilterExtension  # noqa: E402
from stac_fastapi.extensions.free_text import FreeTextConformanceClasses, FreeTextExtension  # noqa: E402
from stac_fastapi.extensions.pagination import TokenPaginationExtension  # noqa: E402
from stac_fastapi.extensions.sort import SortExtension  # noqa: E402
from stac_fastapi.extensions.sort.sort import SortConformanceClasses  # noqa: E402
from stac_fastapi.types.config import ApiSettings  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.cors import CORSMiddleware  # noqa: E402
from starlette.responses import Response  # noqa: E402

from landpatch.catalog.api.assets import asset_router  # noqa: E402
from landpatch.catalog.api.errors import answer_errors  # noqa: E402
from landpatch.catalog.api.middleware import HeadAsGet, Limited, Metrics, Observed  # noqa: E402
from landpatch.catalog.api.routes import (  # noqa: E402
    AggregationClient,
    CatalogueClient,
    Datasets,
    QueryablesClient,
    SortablesClient,
)
from landpatch.catalog.api.settings import Settings  # noqa: E402
from landpatch.catalog.errors import InvalidParameter  # noqa: E402
from landpatch.catalog.search import SearchableDataset  # noqa: E402

_CQL2 = (
    FilterConformanceClasses.ADVANCED_COMPARISON_OPERATORS,
    FilterConformanceClasses.CASE_INSENSITIVE_COMPARISON,
    FilterConformanceClasses.ACCENT_INSENSITIVE_COMPARISON,
    FilterConformanceClasses.BASIC_SPATIAL_FUNCTIONS,
    FilterConformanceClasses.BASIC_SPATIAL_FUNCTIONS_PLUS,
    FilterConformanceClasses.SPATIAL_FUNCTIONS,
    FilterConformanceClasses.TEMPORAL_FUNCTIONS,
    FilterConformanceClasses.ARRAY_FUNCTIONS,
    FilterConformanceClasses.PROPERTY_PROPERTY,
    FilterConformanceClasses.ARITHMETIC,
    # As drafts of CQL2 called them, and clients of that time still do.
    "http://www.opengis.net/spec/cql2/1.0/conf/basic-spatial-operators",
    "http://www.opengis.net/spec/cql2/1.0/conf/spatial-operators",
    "http://www.opengis.net/spec/cql2/1.0/conf/temporal-operators",
    "http://www.opengis.net/spec/cql2/1.0/conf/array-operators",
)


class _FilterPost(BaseModel):
    """A filter in a POST: JSON as the standard says, and text for those who have that."""

    filter_expr: dict[str, Any] | bool | str | None = Field(None, alias="filter", description="A CQL2 filter.")
    filter_crs: str | None = Field(None, alias="filter-crs")
    filter_lang: Literal["cql2-json", "cql2-text"] | None = Field(None, alias="filter-lang")


class _FieldsPost(BaseModel):
    """Fields in a POST; null is no choice of fields."""

    fields: PostFieldsExtension = Field(PostFieldsExtension(), description="Fields of items to include or exclude.")


def create_app(
    datasets: Mapping[str, SearchableDataset | str | os.PathLike[str]]
    | Sequence[SearchableDataset | str | os.PathLike[str]],
    settings: Settings | None = None,
) -> FastAPI:
    """The STAC API of some datasets: folders, ``s3://`` prefixes or SearchableDatasets; a mapping names collections.

    Datasets are loaded here, and closed when the application shuts down. The application answers below any prefix
    that it is mounted at. Raises StorageError, InvalidDataset, InvalidParameter (two collections of one id).
    """
    settings = settings or Settings()
    behind = Datasets(_opened(datasets, settings))
    stac_settings = ApiSettings(
        _env_file=None,  # type: ignore[call-arg]
        stac_fastapi_title=settings.title,
        stac_fastapi_description=settings.description,
        stac_fastapi_landing_id=settings.landing_id,
        stac_fastapi_version=version("landpatch"),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for dataset in behind.by_collection.values():
            dataset.close()

    app = FastAPI(
        title=settings.title,
        description=settings.description,
        version=version("landpatch"),
        openapi_url=stac_settings.openapi_url,
        docs_url=stac_settings.docs_url,
        redoc_url=None,
        lifespan=lifespan,
    )
    metrics = Metrics()
    _Routes(behind, settings, stac_settings, app, metrics)
    app.include_router(asset_router(behind.by_collection, settings))

    @app.get("/_mgmt/metrics", include_in_schema=False)
    def show_metrics(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    answer_errors(app)
    _name_operations(app)
    app.state.datasets = behind.by_collection
    return app


def _name_operations(app: FastAPI) -> None:
    """Give every operation of the OpenAPI document an id of its own, where a route has two methods too."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Duplicate Operation ID")
                document = describe()
            for path in document["paths"].values():
                for method, operation in path.items():
                    operation["operationId"] = f"{method}_{operation['operationId']}"
        return describe()

    app.openapi = openapi  # type: ignore[method-assign]


def _opened(datasets: Any, settings: Settings) -> dict[str, SearchableDataset]:
    named = list(datasets.items()) if isinstance(datasets, Mapping) else [(None, dataset) for dataset in datasets]
    opened: dict[str, SearchableDataset] = {}
    for name, dataset in named:
        if not isinstance(dataset, SearchableDataset):
            dataset = SearchableDataset(
                dataset,
                cache=settings.cache,
                seconds=settings.seconds,
                watch_seconds=settings.watch_seconds,
                threads=settings.threads,
            )
        collection = str(dataset.snapshot().collection["id"])
        if name is not None and name != collection:
            raise InvalidParameter(f"{dataset.storage.url} is the collection {collection!r}, not {name!r}")
        if collection in opened:
            raise InvalidParameter(
                f"{opened[collection].storage.url} and {dataset.storage.url} are both the collection {collection!r}; "
                "one API serves it once"
            )
        opened[collection] = dataset
    return opened


class _Routes(StacApi):
    """stac-fastapi's wiring of routes with our clients and extensions."""

    def __init__(
        self, datasets: Datasets, settings: Settings, stac_settings: ApiSettings, app: FastAPI, metrics: Metrics
    ) -> None:
        filters = FilterExtension(client=QueryablesClient(datasets=datasets))
        filters.conformance_classes = [*filters.conformance_classes, *_CQL2]
        filters.POST = _FilterPost
        sort = SortExtension(client=SortablesClient(datasets=datasets))
        sort.conformance_classes = [
            SortConformanceClasses.ITEM_SEARCH_SORT,
            SortConformanceClasses.ITEM_SEARCH_SORTABLES,
            SortConformanceClasses.FEATURES_SORT,
            SortConformanceClasses.FEATURES_SORTABLES,
            # What clients of the first version look for (pystac-client warns without).
            "https://api.stacspec.org/v1.0.0/item-search#sort",
            "https://api.stacspec.org/v1.0.0/ogcapi-features#sort",
        ]
        fields = FieldsExtension(
            conformance_classes=[FieldsConformanceClasses.SEARCH, FieldsConformanceClasses.ITEMS]
        )
        fields.POST = _FieldsPost
        text = FreeTextExtension(
            conformance_classes=[FreeTextConformanceClasses.SEARCH, FreeTextConformanceClasses.ITEMS]
        )
        paging = TokenPaginationExtension()
        searching = [filters, sort, fields, text, paging]
        aggregation = AggregationExtension(client=AggregationClient(datasets=datasets))
        counted = [filters, text]
        aggregation.GET = create_get_request_model(counted, AggregationExtensionGetRequest)
        aggregation.POST = create_post_request_model(counted, AggregationExtensionPostRequest)
        collections = CollectionSearchExtension.from_extensions(
            [
                FieldsExtension(conformance_classes=[FieldsConformanceClasses.COLLECTIONS]),
                FreeTextExtension(conformance_classes=[FreeTextConformanceClasses.COLLECTIONS]),
                TokenPaginationExtension(),
            ]
        )
        extensions = [*searching, aggregation, collections]
        super().__init__(
            settings=stac_settings,
            client=CatalogueClient(
                datasets=datasets, limits=settings, landing_page_id=settings.landing_id, extensions=extensions
            ),
            extensions=extensions,
            app=app,
            title=settings.title,
            description=settings.description,
            search_get_request_model=create_get_request_model(searching),
            search_post_request_model=create_post_request_model(searching),
            items_get_request_model=create_get_request_model(searching, ItemCollectionUri),
            collections_get_request_model=collections.GET,
            middlewares=_middlewares(settings, metrics),
        )


def _middlewares(settings: Settings, metrics: Metrics) -> list[Middleware]:
    """From the innermost to the outermost."""
    compress = [Middleware(BrotliMiddleware, quality=4, excluded_handlers=[r".*/assets/.*", r".*\.(png|tif)$"])]
    return [
        *(compress if settings.compress else []),
        Middleware(
            CORSMiddleware,
            allow_origins=["*"],
            allow_methods=["GET", "HEAD", "OPTIONS", "POST"],
            allow_headers=["Content-Type", "If-Match", "If-None-Match", "If-Range", "Range"],
            # What a browser needs to read COGs by range.
            expose_headers=["Accept-Ranges", "Content-Length", "Content-Range", "ETag"],
            max_age=600,
        ),
        Middleware(ProxyHeaderMiddleware),
        Middleware(HeadAsGet),
        Middleware(Limited, body_bytes=settings.body_bytes),
        Middleware(Observed, metrics=metrics, log=settings.access_log),
    ]
