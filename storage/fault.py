"""The one family of errors a caller of the store can cause, with S3's own codes and statuses.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "AccessDenied": 403,
        "AccessForbidden": 403,
        "AuthorizationHeaderMalformed": 400,
        "AuthorizationQueryParametersError": 400,
        "BadDigest": 400,
        "BadRequest": 400,
        "BucketAlreadyExists": 409,
        "BucketAlreadyOwnedByYou": 409,
        "BucketNotEmpty": 409,
        "ConditionalRequestConflict": 409,
        "EntityTooLarge": 400,
        "EntityTooSmall": 400,
        "EventsExpired": 410,
        "IncompleteBody": 400,
        "InsufficientStorage": 507,
        "InternalError": 500,
        "InvalidAccessKeyId": 403,
        "InvalidArgument": 400,
        "InvalidBucketName": 400,
        "InvalidChunkSizeError": 403,
        "InvalidDigest": 400,
        "InvalidPart": 400,
        "InvalidPartOrder": 400,
        "InvalidPolicyDocument": 400,
        "InvalidRange": 416,
        "InvalidRequest": 400,
        "InvalidTag": 400,
        "InvalidURI": 400,
        "IllegalVersioningConfigurationException": 400,
        "KeyTooLongError": 400,
        "MalformedPolicy": 400,
        "MalformedPOSTRequest": 400,
        "MalformedTrailerError": 400,
        "MalformedXML": 400,
        "MaxMessageLengthExceeded": 400,
        "MaxPostPreDataLengthExceeded": 400,
        "MetadataTooLarge": 400,
        "MethodNotAllowed": 405,
        "MissingContentLength": 411,
        "NoSuchBucket": 404,
        "NoSuchBucketPolicy": 404,
        "NoSuchCORSConfiguration": 404,
        "NoSuchLifecycleConfiguration": 404,
        "NoSuchPublicAccessBlockConfiguration": 404,
        "NoSuchTagSet": 404,
        "OwnershipControlsNotFoundError": 404,
        "ServerSideEncryptionConfigurationNotFoundError": 404,
        "ObjectLockConfigurationNotFoundError": 404,
        "ReplicationConfigurationNotFoundError": 404,
        "NoSuchWebsiteConfiguration": 404,
        "NoSuchKey": 404,
        "NoSuchUpload": 404,
        "NoSuchVersion": 404,
        "NotImplemented": 501,
        "NotModified": 304,
        "PreconditionFailed": 412,
        "RequestTimeTooSkewed": 403,
        "RequestTimeout": 400,
        "ServiceUnavailable": 503,
        "SignatureDoesNotMatch": 403,
        "SlowDown": 503,
        "UnresolvableGrantByEmailAddress": 400,
        "XAmzContentSHA256Mismatch": 400,
    }
)


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # answered with InsufficientStorage


class S3Error(Exception):
    """A refusal in S3's words. `details` become elements of the error document; names are S3's."""

    def __init__(self, code: str, message: str, **details: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = STATUS[code]
        self.details = details
        self.headers: tuple[tuple[str, str], ...] = ()

    def showing(self, *headers: tuple[str, str]) -> Self:
        """The same error, answered with these headers too."""
        self.headers = headers
        return self


class StoreBroken(Exception):
    """The disk or the index failed in a way that a retry would hide; the store must stop."""
