"""Does what `grpcurl -plaintext [-d JSON] HOST:PORT SERVICE/METHOD` does, for machines without grpcurl:
the pages' requests and answers are held against the contract all the same."""

import argparse
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from reprise_client.v1 import generation_pb2, model_pb2, session_pb2  # noqa: F401: fill the pool


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", default="{}")
    parser.add_argument("address")
    parser.add_argument("method")
    arguments = parser.parse_args()
    service, _, name = arguments.method.rpartition("/")
    method = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(name)
    request_class = message_factory.GetMessageClass(method.input_type)
    response_class = message_factory.GetMessageClass(method.output_type)
    request = json_format.Parse(arguments.d, request_class())
    with grpc.insecure_channel(arguments.address) as channel:
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        call = kind(f"/{arguments.method}", request_serializer=request_class.SerializeToString,
                    response_deserializer=response_class.FromString)
        try:
            answers = call(request, timeout=60)
            for answer in answers if method.server_streaming else [answers]:
                print(json_format.MessageToJson(answer))
        except grpc.RpcError as error:
            sys.exit(f"ERROR:\n  Code: {error.code().name}\n  Message: {error.details()}")


if __name__ == "__main__":
    main()
