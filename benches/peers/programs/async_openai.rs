use std::error::Error;

use async_openai::config::OpenAIConfig;
use async_openai::types::chat::{ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequestArgs};
use futures_util::StreamExt;

fn main() -> Result<(), Box<dyn Error>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let config = OpenAIConfig::new().with_api_base("http://127.0.0.1:8000/v1").with_api_key("none");
        let client = async_openai::Client::with_config(config);
        let message = ChatCompletionRequestUserMessageArgs::default().content("Hi").build()?;
        let request =
            CreateChatCompletionRequestArgs::default().model("m").messages([message.into()]).build()?;
        let mut stream = client.chat().create_stream(request).await?;
        while let Some(chunk) = stream.next().await {
            for choice in chunk?.choices {
                print!("{}", choice.delta.content.unwrap_or_default());
            }
        }
        Ok(())
    })
}
