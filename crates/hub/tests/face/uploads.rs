use reqwest::Method;

use crate::site::Site;

#[tokio::test]
async fn placeholder() {
    let site = Site::new().await;
    let admin = site.admin().await;
    let r = site
        .request(&admin, Method::OPTIONS, "/api/uploads")
        .send()
        .await
        .unwrap();
    assert_eq!(r.status(), 204);
    assert!(site.uploads().exists());
}
