"""Half answers of S3: a connection over plain HTTP that breaks inside of the headers looks like a short, good answer.

botocore would take it for an empty listing, or for an upload without an id. (Over TLS, and inside of a body whose
length is known, the break is noticed below botocore.) So what an answer must have is checked here before it is parsed,
and half of one becomes an error that botocore repeats.
"""

import re
from typing import Any

HEADERS = {
    "GetObject": ("etag", "content-length"),
    "HeadObject": ("etag", "content-length"),
    "PutObject": ("etag",),
    "UploadPart": ("etag",),
}
BODIES = {"CompleteMultipartUpload", "CreateMultipartUpload", "ListMultipartUploads", "ListObjectsV2", "ListParts"}
ROOT = re.compile(rb"<([A-Za-z]+)[\s>]")  # the first element, which the document must end with
AGAIN = b"<Error><Code>RequestTimeout</Code><Message>the answer broke off</Message></Error>"  # a code that is repeated


def refuse_half_answers(client: Any) -> None:
    """Make ``client``, of S3, repeat requests whose answer broke off."""
    client.meta.events.register("before-parse.s3", _check)


def _check(operation_model: Any, response_dict: dict[str, Any], **rest: Any) -> None:
    if response_dict["status_code"] >= 300:
        return
    headers, name = response_dict["headers"], operation_model.name
    whole = all(header in headers for header in HEADERS.get(name, ()))
    if name in BODIES:
        root = ROOT.search(response_dict["body"])
        whole = root is not None and response_dict["body"].rstrip().endswith(b"</" + root[1] + b">")
    if not whole:
        response_dict.update(status_code=500, body=AGAIN)
